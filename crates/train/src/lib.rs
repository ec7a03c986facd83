//! The trainer: settings, plan, schedule, optimizers, the loop, evaluation, checkpoints, run log.
//!
//! Owns everything between a configuration and a trained model folder. Prints nothing and reads no environment: what
//! happens is told through [`Event`]s. Refuses at the start what would fail at the end.
//!
//! To read it: `trainer/mod.rs` is the loop and `step.rs` one update; `plan.rs` cuts epochs into updates; `checkpoint.rs` is how
//! a run survives. The parts serve loops of one's own too: [`Step`], [`Optimizer`], [`Schedule`], [`evaluate`];
//! `examples/custom_loop.rs` is one. What a run leaves behind is read again in `report`, which makes one page of it.

mod best;
mod card;
pub mod checkpoint;
mod corpus;
mod error;
mod eta;
mod evaluate;
mod event;
pub mod format;
mod loss_scale;
mod optimizer;
mod output;
mod passes;
mod plan;
mod record;
pub mod report;
mod request;
mod retention;
mod runlog;
mod sampler;
mod saver;
mod schedule;
pub mod settings;
mod setup;
mod snapshot;
mod state;
mod step;
pub mod storage;
mod tensorboard;
mod trainer;

pub use best::Metric;
pub use checkpoint::Checkpoint;
pub use error::Error;
pub use eta::{Ahead, Eta};
pub use evaluate::{EvalData, EvalResult, evaluate};
pub use event::{Event, OnEvent, Sample};
pub use optimizer::{Hyper, NotFinite, Optimizer};
pub use output::{OutputDir, free_disk_bytes, is_locked};
pub use plan::{Budget, Epochs, Plan};
pub use record::{Best, RUN, RunRecord, Status};
pub use request::Requests;
pub use retention::Retention;
pub use runlog::{EvalTiming, METRICS, RunLog, SAMPLES, StepMetrics};
pub use schedule::Schedule;
pub use settings::{
    DOCUMENTS, Kind, MODEL_SETTINGS, OptimizerKind, Precision, SETTINGS, SaveStrategy, SchedulerType,
    Setting, Strategy, TrainConfig,
};
pub use snapshot::{Contents, FileOut};
pub use step::{Samples, Step, StepLoss, key_of};
pub use tensorboard::TensorBoard;
pub use trainer::{Measured, Outcome, Trainer};
