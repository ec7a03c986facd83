//! Saving while training goes on: a copy is taken, and a thread of its own writes it.
//!
//! Training waits for the copy, and for the save before if that is still being written. Checkpoints that are too many are
//! removed by the same thread, after the new one is durable.

use crate::checkpoint;
use crate::error::Error;
use crate::optimizer::Optimizer;
use crate::record::RunRecord;
use crate::retention::Retention;
use crate::snapshot::{Contents, SmallFiles, Snapshot, live_files};
use crate::storage::Storage;
use eyas_model::Gpt;
use eyas_ops::Backend;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Writes the checkpoints of a run.
pub(crate) struct Saver {
    storage: Arc<dyn Storage>,
    output_dir: PathBuf,
    /// Room for the copy; `None` where the run itself is written while it waits. Nobody else holds it but the thread.
    snapshot: Option<Arc<Snapshot>>,
    writing: Option<(u64, JoinHandle<Result<Saved, Error>>)>,
}

/// A checkpoint that is durable, and what was removed after it.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) path: PathBuf,
    pub(crate) removed: Vec<PathBuf>,
    /// What went wrong with the removal, which does not make the checkpoint less good.
    pub(crate) not_removed: Option<Error>,
}

/// The end of a save: its step, and how it went.
pub(crate) type Finished = (u64, Result<Saved, Error>);

/// The numbers of a save.
pub(crate) struct Job {
    pub(crate) step: u64,
    pub(crate) small: SmallFiles,
    pub(crate) state: Map<String, Value>,
    pub(crate) retention: Retention,
    pub(crate) record: RunRecord,
}

impl Saver {
    pub(crate) fn new<D: Backend>(
        storage: Arc<dyn Storage>,
        output_dir: &Path,
        in_background: bool,
        gpt: &Gpt<D>,
        optimizer: &Optimizer<D>,
    ) -> Self {
        let snapshot = in_background.then(|| Arc::new(Snapshot::new(gpt, optimizer)));
        Saver { storage, output_dir: output_dir.into(), snapshot, writing: None }
    }

    /// The step that is being written.
    pub(crate) fn step(&self) -> Option<u64> {
        self.writing.as_ref().map(|(step, _)| *step)
    }

    /// Begins to save, and in the foreground ends it. The save before must have been taken in with [`wait`](Self::wait).
    pub(crate) fn begin<D: Backend>(
        &mut self,
        gpt: &Gpt<D>,
        optimizer: &Optimizer<D>,
        job: Job,
    ) -> Option<Finished> {
        assert!(self.writing.is_none(), "one save at a time");
        let (storage, output_dir) = (self.storage.clone(), self.output_dir.clone());
        let Some(snapshot) = &mut self.snapshot else {
            let files = live_files(gpt, optimizer, &job.small);
            let contents = Contents { step: job.step, files, state: job.state };
            return Some((job.step, save(&*storage, &output_dir, contents, job.retention, &job.record)));
        };
        let room = Arc::get_mut(snapshot).expect("the thread that wrote the last save has ended");
        room.take(gpt, optimizer, job.small, job.step, job.state);
        let copy = snapshot.clone();
        let write = move || save(&*storage, &output_dir, copy.contents(), job.retention, &job.record);
        match thread::Builder::new().name("checkpoint".into()).spawn(write) {
            Ok(thread) => {
                self.writing = Some((job.step, thread));
                None
            }
            // There may be a thread to be had when the save is tried again.
            Err(error) => {
                Some((job.step, Err(Error::io("start a thread to write in", &self.output_dir)(error))))
            }
        }
    }

    /// The end of the save that was being written, if it has come.
    pub(crate) fn poll(&mut self) -> Option<Finished> {
        let is_finished = self.writing.as_ref().is_some_and(|(_, thread)| thread.is_finished());
        if is_finished { self.wait() } else { None }
    }

    /// Waits for the save that is being written, if there is one.
    pub(crate) fn wait(&mut self) -> Option<Finished> {
        let (step, thread) = self.writing.take()?;
        let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Some((step, result))
    }
}

impl Drop for Saver {
    /// A run that ends with an error has a save that is being written come to its end.
    fn drop(&mut self) {
        if let Some((_, thread)) = self.writing.take() {
            let _ = thread.join();
        }
    }
}

fn save(
    storage: &dyn Storage,
    output_dir: &Path,
    contents: Contents<'_>,
    retention: Retention,
    record: &RunRecord,
) -> Result<Saved, Error> {
    let step = contents.step;
    let path = checkpoint::write(storage, output_dir, contents)?;
    // For people only, and written again at the end: a checkpoint is no less good without it.
    let _ = record.save(output_dir);
    let (removed, not_removed) = match retention.apply(storage, output_dir, step) {
        Ok(removed) => (removed, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    Ok(Saved { path, removed, not_removed })
}
