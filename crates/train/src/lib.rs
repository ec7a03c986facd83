//! The trainer: plan, schedule, optimizer step, evaluation, checkpoints, run log
