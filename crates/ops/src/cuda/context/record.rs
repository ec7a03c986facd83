//! Recording of queued work as a CUDA graph, and of the kernels in it whose arguments change; `graph.rs` replays it.

use super::{Context, Lane, Shape, require};
use crate::Dropout;
use crate::cuda::graph::{Change, ChangingNode};
use cudarc::driver::sys as driver;
use std::ffi::c_void;
use std::sync::MutexGuard;

/// What is noted while work is recorded.
#[derive(Default)]
pub(super) struct Recorder {
    /// The dropouts that were asked for.
    keys: Vec<Dropout>,
    /// Which argument of the next kernel is the position, and what it is now.
    position_at: Option<(usize, usize)>,
    nodes: Vec<ChangingNode>,
}

impl Context {
    /// Notes that the next launches may take this dropout's key, which another step has another of.
    pub(crate) fn note_dropout(&self, dropout: Dropout) {
        let mut recorder = self.recorder();
        if let Some(recorder) = recorder.as_mut().filter(|_| dropout.is_active()) {
            recorder.keys.push(dropout);
        }
    }

    /// Notes that argument `index` of the next kernel is the position, now `position`, which another token has another of.
    pub(crate) fn note_position(&self, index: usize, position: usize) {
        let mut recorder = self.recorder();
        if let Some(recorder) = recorder.as_mut() {
            recorder.position_at = Some((index, position));
        }
    }

    /// Notes a kernel that was just recorded, if it has arguments that change.
    pub(super) fn note_kernel(
        &self,
        lane: Lane,
        function: driver::CUfunction,
        shape: Shape,
        structure: &[u64],
        arguments: &[u64],
    ) {
        let mut recorder = self.recorder();
        let Some(recorder) = recorder.as_mut() else { return };
        // A key is 64 hashed bits: no address or size equals one.
        let key_of =
            |argument: &u64| recorder.keys.iter().find(|dropout| dropout.parts().0 == *argument).copied();
        let key = arguments
            .iter()
            .enumerate()
            .find_map(|(index, argument)| Some((index, Change::Key(key_of(argument)?))));
        let position = recorder.position_at.take().map(|(index, position)| {
            assert_eq!(arguments[index], position as u64, "argument {index} is the position");
            (index, Change::Position)
        });
        let changes: Vec<_> = key.into_iter().chain(position).collect();
        if !changes.is_empty() {
            let (node, structure, arguments) = (self.last_node(lane), structure.to_vec(), arguments.to_vec());
            recorder.nodes.push(ChangingNode { node, function, shape, structure, arguments, changes });
        }
    }

    /// The node that was recorded last in a lane: the one that its next would depend on.
    fn last_node(&self, lane: Lane) -> driver::CUgraphNode {
        let mut status = driver::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut graph, mut nodes, mut count) = (0, std::ptr::null_mut(), std::ptr::null(), 0);
        let mut edges = std::ptr::null();
        // SAFETY: all are written; the nodes are read before the stream is used again.
        unsafe {
            let known = driver::cuStreamGetCaptureInfo_v3(
                self.streams[lane as usize],
                &mut status,
                &mut id,
                &mut graph,
                &mut nodes,
                &mut edges,
                &mut count,
            );
            require("cuStreamGetCaptureInfo", known);
            assert!(count == 1, "a kernel leaves one node to depend on, got {count}");
            *nodes
        }
    }

    /// Whether the driver is new enough to record: 12.3.
    pub(crate) fn can_record(&self) -> bool {
        // SAFETY: the driver was opened.
        unsafe { driver::culib().get::<*const c_void>(b"cuStreamGetCaptureInfo_v3").is_ok() }
    }

    /// Records what `queue` queues, without running it. If that panics, the stream is as if nothing had been recorded.
    pub(crate) fn record(&self, mut queue: impl FnMut()) -> (driver::CUgraph, Vec<ChangingNode>) {
        self.join();
        self.bind();
        self.end_chain();
        let capture = Capture::begin(self);
        queue();
        // The second lane's work must end in the first's.
        self.join();
        let (graph, noted) = capture.end();
        (graph, noted.nodes)
    }

    fn recorder(&self) -> MutexGuard<'_, Option<Recorder>> {
        self.recorder.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A stream that records what it is given, until this is gone.
struct Capture<'a> {
    context: &'a Context,
}

impl<'a> Capture<'a> {
    fn begin(context: &'a Context) -> Self {
        let mode = driver::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream exists, and what is queued allocates nothing and waits for nothing.
        let begun = unsafe { driver::cuStreamBeginCapture_v2(context.streams[0], mode) };
        require("cuStreamBeginCapture", begun);
        *context.recorder() = Some(Recorder::default());
        Capture { context }
    }

    /// What was recorded, and what was noted of it.
    fn end(self) -> (driver::CUgraph, Recorder) {
        let (graph, noted, result) = self.stop();
        std::mem::forget(self);
        require("cuStreamEndCapture", result);
        (graph, noted)
    }

    fn stop(&self) -> (driver::CUgraph, Recorder, driver::CUresult) {
        let mut graph = std::ptr::null_mut();
        // SAFETY: the graph is written, with null if the recording is worth nothing.
        let result = unsafe { driver::cuStreamEndCapture(self.context.streams[0], &mut graph) };
        // What was recorded has not been queued.
        self.context.end_chain();
        (graph, self.context.recorder().take().unwrap_or_default(), result)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        // Work was left in the second lane that the first does not wait for, so there is no graph, or half of one.
        let (graph, ..) = self.stop();
        self.context.forget_beside();
        if !graph.is_null() {
            // SAFETY: nobody else has it.
            let _ = unsafe { driver::cuGraphDestroy(graph) };
        }
    }
}
