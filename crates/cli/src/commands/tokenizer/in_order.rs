//! Work on all cores whose results come out in the order in which it went in.
//!
//! Jobs go to the workers in turn, and results are taken from them in the same turn. Queues hold one job, so that a
//! corpus of any size passes through little memory.

use crate::errors::Outcome;
use std::sync::mpsc::sync_channel;

/// What sends a job, and says whether anyone still wants it.
pub(super) type Send<'s, J> = dyn FnMut(J) -> bool + 's;

/// Runs `work` on every job that `produce` sends, and hands the results to `consume` in order. The first failure in that
/// order ends it.
pub(super) fn in_order<J: std::marker::Send, R: std::marker::Send>(
    num_threads: usize,
    produce: impl FnOnce(&mut Send<'_, J>) -> Outcome,
    work: impl Fn(J) -> Outcome<R> + Sync,
    mut consume: impl FnMut(R) -> Outcome + std::marker::Send,
) -> Outcome {
    std::thread::scope(|scope| {
        let (mut jobs, mut results) = (Vec::new(), Vec::new());
        for _ in 0..num_threads.max(1) {
            let (job_sender, job_receiver) = sync_channel::<J>(1);
            let (result_sender, result_receiver) = sync_channel(1);
            let work = &work;
            scope.spawn(move || {
                // Nobody receives once the command has failed.
                for job in job_receiver {
                    if result_sender.send(work(job)).is_err() {
                        break;
                    }
                }
            });
            jobs.push(job_sender);
            results.push(result_receiver);
        }
        let consumer = scope.spawn(move || {
            for turn in (0..results.len()).cycle() {
                // Jobs are dealt in turn, so the first worker without a result has ended after the last job.
                let Ok(result) = results[turn].recv() else { break };
                consume(result?)?;
            }
            Ok(())
        });
        let mut turns = (0..jobs.len()).cycle();
        let produced = produce(&mut |job| turns.next().is_some_and(|turn| jobs[turn].send(job).is_ok()));
        drop(jobs);
        match consumer.join() {
            // What failed first in the order of the input is told: results come before what could not be read.
            Ok(consumed) => consumed.and(produced),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Failure;

    fn run(num_threads: usize, bad: u32, cut: bool) -> (Vec<u32>, Outcome) {
        let mut seen = Vec::new();
        let outcome = in_order(
            num_threads,
            |send| {
                let _ = (0..1000).all(send);
                if cut { Err(Failure::failed("cut")) } else { Ok(()) }
            },
            |job| if job == bad { Err(Failure::failed("bad")) } else { Ok(2 * job) },
            |result| {
                seen.push(result);
                Ok(())
            },
        );
        (seen, outcome)
    }

    #[test]
    fn order_and_failures() {
        for num_threads in [1, 2, 7] {
            let (seen, outcome) = run(num_threads, u32::MAX, false);
            assert!(outcome.is_ok() && seen == (0..1000).map(|job| 2 * job).collect::<Vec<_>>());
            let (seen, outcome) = run(num_threads, 500, true);
            assert!(seen.len() == 500 && format!("{outcome:?}").contains("bad"), "{outcome:?}");
            let (seen, outcome) = run(num_threads, u32::MAX, true);
            assert!(seen.len() == 1000 && format!("{outcome:?}").contains("cut"), "{outcome:?}");
        }
    }
}
