//! Recording of queued work as a graph, and graphs themselves.
//!
//! A recording begins in one stream and spreads to others through events, as CUDA's does: an event that is recorded in it names
//! the nodes that came before, and a stream that waits for the event takes part and depends on them. The trick: a node that is
//! recorded takes the next number, so dependencies always have smaller ones, and what a node needs is found in one pass.

use crate::driver::next_handle;
use crate::streams::{Card, Mark, Schedule, Stream, Task, lock};
use cudarc::driver::sys::CUresult;
use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

/// Something to do, after others.
#[derive(Clone)]
pub(crate) struct Node {
    /// By which the program knows it.
    pub(crate) handle: u64,
    pub(crate) task: Task,
    /// The numbers of those that must be done before, all smaller than its own.
    pub(crate) dependencies: Vec<usize>,
}

/// What was recorded.
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
}

/// A graph that can be launched. What is on its way keeps the nodes that it was launched with.
pub(crate) struct Executable {
    nodes: Mutex<Arc<Vec<Node>>>,
}

/// A recording under way.
pub(crate) struct Capture {
    pub(crate) handle: u64,
    thread: ThreadId,
    /// Whether the thread may meanwhile do what could wait for the card.
    is_relaxed: bool,
    origin: Arc<Stream>,
    state: Mutex<CaptureState>,
}

#[derive(Default)]
struct CaptureState {
    nodes: Vec<Node>,
    /// All that take part.
    streams: Vec<Arc<Stream>>,
    /// Something was done that cannot be recorded.
    is_invalid: bool,
    is_over: bool,
}

/// A stream's part in a recording.
pub(crate) struct Joined {
    capture: Arc<Capture>,
    /// What its next node depends on.
    dependencies: Vec<usize>,
    /// The same, as the program knows them.
    handles: Vec<u64>,
}

/// How a stream stands to recordings.
pub(crate) enum Status {
    None,
    /// The recording, and what the stream's next node depends on: the address of as many handles, until the next call.
    Active(Arc<Capture>, *const u64, usize),
    Invalid,
}

/// An event, as it was recorded last.
#[derive(Clone, Default)]
pub(crate) enum Recorded {
    #[default]
    Never,
    Queued(Arc<Mark>),
    Captured(Arc<Capture>, Vec<usize>),
}

thread_local! {
    /// Recordings that the thread began and that forbid it to wait.
    static STRICT: RefCell<Vec<Arc<Capture>>> = const { RefCell::new(Vec::new()) };
}

/// Fails, and spoils the recording, where the thread is recording and so must not wait for the card.
pub(crate) fn may_wait() -> Result<(), CUresult> {
    STRICT.with_borrow(|strict| {
        strict.iter().for_each(|capture| lock(&capture.state).is_invalid = true);
        if strict.is_empty() { Ok(()) } else { Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) }
    })
}

/// Begins to record what a stream is given.
pub(crate) fn begin(stream: &Arc<Stream>, is_relaxed: bool) -> Result<(), CUresult> {
    let mut joined = lock(&stream.capture);
    if joined.is_some() {
        return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
    }
    let capture = Arc::new(Capture {
        handle: next_handle(),
        thread: std::thread::current().id(),
        is_relaxed,
        origin: stream.clone(),
        state: Mutex::new(CaptureState { streams: vec![stream.clone()], ..CaptureState::default() }),
    });
    if !is_relaxed {
        STRICT.with_borrow_mut(|strict| strict.push(capture.clone()));
    }
    *joined = Some(Joined { capture, dependencies: Vec::new(), handles: Vec::new() });
    Ok(())
}

/// Ends the recording that began in a stream.
pub(crate) fn end(stream: &Arc<Stream>) -> Result<Graph, CUresult> {
    let (capture, last) = match &*lock(&stream.capture) {
        None => return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE),
        Some(joined) => (joined.capture.clone(), joined.dependencies.clone()),
    };
    if !Arc::ptr_eq(&capture.origin, stream) {
        lock(&capture.state).is_invalid = true;
        return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    }
    if !capture.is_relaxed && capture.thread != std::thread::current().id() {
        return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    }
    STRICT.with_borrow_mut(|strict| strict.retain(|other| !Arc::ptr_eq(other, &capture)));
    let (nodes, streams, is_invalid) = {
        let mut state = lock(&capture.state);
        state.is_over = true;
        (std::mem::take(&mut state.nodes), std::mem::take(&mut state.streams), state.is_invalid)
    };
    let joined: Vec<_> = streams.iter().filter_map(|stream| lock(&stream.capture).take()).collect();
    if is_invalid {
        return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    let is_before = before(&nodes, &last);
    if joined.iter().flat_map(|joined| &joined.dependencies).any(|&node| !is_before[node]) {
        return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    }
    Ok(Graph { nodes })
}

/// For each node whether it is one of `last` or something that they depend on.
fn before(nodes: &[Node], last: &[usize]) -> Vec<bool> {
    let mut is_before = vec![false; nodes.len()];
    last.iter().for_each(|&node| is_before[node] = true);
    for number in (0..nodes.len()).rev() {
        if is_before[number] {
            nodes[number].dependencies.iter().for_each(|&node| is_before[node] = true);
        }
    }
    is_before
}

/// Queues a task, or records it.
pub(crate) fn submit(stream: &Arc<Stream>, task: Task) -> Result<(), CUresult> {
    let mut joined = lock(&stream.capture);
    let Some(joined) = joined.as_mut() else {
        drop(joined);
        stream.queue(task);
        return Ok(());
    };
    let mut state = joined.capture.active()?;
    let dependencies = std::mem::replace(&mut joined.dependencies, vec![state.nodes.len()]);
    state.nodes.push(Node { handle: next_handle(), task, dependencies });
    Ok(())
}

/// Fails, and spoils the recording, where a stream is recording and so cannot do what was asked.
pub(crate) fn must_not_capture(stream: &Stream) -> Result<(), CUresult> {
    match &*lock(&stream.capture) {
        None => Ok(()),
        Some(joined) => {
            joined.capture.active()?.is_invalid = true;
            Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        }
    }
}

/// How a stream stands to recordings.
pub(crate) fn status(stream: &Stream) -> Status {
    let mut joined = lock(&stream.capture);
    let Some(Joined { capture, dependencies, handles }) = joined.as_mut() else { return Status::None };
    let Ok(state) = capture.active() else { return Status::Invalid };
    *handles = dependencies.iter().map(|&node| state.nodes[node].handle).collect();
    Status::Active(capture.clone(), handles.as_ptr(), handles.len())
}

/// Records an event.
pub(crate) fn record(stream: &Arc<Stream>) -> Result<Recorded, CUresult> {
    let joined = lock(&stream.capture);
    let Some(Joined { capture, dependencies, .. }) = joined.as_ref() else {
        drop(joined);
        return Ok(Recorded::Queued(stream.record()));
    };
    drop(capture.active()?);
    Ok(Recorded::Captured(capture.clone(), dependencies.clone()))
}

/// Makes a stream wait for an event, as it was recorded last.
pub(crate) fn wait(stream: &Arc<Stream>, recorded: &Recorded) -> Result<(), CUresult> {
    let mut joined = lock(&stream.capture);
    match (recorded, joined.as_mut()) {
        (Recorded::Never, _) => Ok(()),
        (Recorded::Queued(mark), None) => {
            drop(joined);
            stream.wait(mark);
            Ok(())
        }
        (Recorded::Queued(_), Some(joined)) => {
            joined.capture.active()?.is_invalid = true;
            Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
        }
        (Recorded::Captured(capture, dependencies), None) => {
            let mut state = capture.active().map_err(|error| match error {
                CUresult::CUDA_ERROR_ILLEGAL_STATE => CUresult::CUDA_ERROR_CAPTURED_EVENT,
                other => other,
            })?;
            state.streams.push(stream.clone());
            let dependencies = dependencies.clone();
            *joined = Some(Joined { capture: capture.clone(), dependencies, handles: Vec::new() });
            Ok(())
        }
        (Recorded::Captured(capture, dependencies), Some(joined)) => {
            if !Arc::ptr_eq(capture, &joined.capture) {
                joined.capture.active()?.is_invalid = true;
                return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
            }
            drop(capture.active()?);
            joined.dependencies.extend_from_slice(dependencies);
            joined.dependencies.sort_unstable();
            joined.dependencies.dedup();
            Ok(())
        }
    }
}

impl Capture {
    /// The state of a recording that goes on well.
    fn active(&self) -> Result<std::sync::MutexGuard<'_, CaptureState>, CUresult> {
        let state = lock(&self.state);
        match (state.is_over, state.is_invalid) {
            (true, _) => Err(CUresult::CUDA_ERROR_ILLEGAL_STATE),
            (_, true) => Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
            _ => Ok(state),
        }
    }
}

impl Executable {
    pub(crate) fn new(graph: &Graph) -> Self {
        Executable { nodes: Mutex::new(Arc::new(graph.nodes.clone())) }
    }

    /// Changes what a node does from the next launch on; false if there is no such kernel.
    #[must_use]
    pub(crate) fn set(&self, handle: u64, task: Task) -> bool {
        let mut nodes = lock(&self.nodes);
        let found = nodes.iter().position(|node| node.handle == handle);
        let is_kernel = |number: usize| matches!(nodes[number].task, Task::Kernel(..));
        let Some(number) = found.filter(|&number| is_kernel(number)) else { return false };
        Arc::make_mut(&mut nodes)[number].task = task;
        true
    }

    /// All its nodes, as one task of a stream.
    pub(crate) fn task(&self, card: &Arc<Card>) -> Task {
        let (nodes, card) = (lock(&self.nodes).clone(), card.clone());
        Task::new(move || order(&nodes, &card).into_iter().try_for_each(|number| nodes[number].task.run()))
    }
}

/// An order in which nodes can run: as recorded; late, with what was recorded last as early as it can be; or at random.
fn order(nodes: &[Node], card: &Card) -> Vec<usize> {
    let mut missing: Vec<usize> = nodes.iter().map(|node| node.dependencies.len()).collect();
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (number, node) in nodes.iter().enumerate() {
        node.dependencies.iter().for_each(|&before| next[before].push(number));
    }
    // In rising order.
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|&number| missing[number] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while !ready.is_empty() {
        let place = match card.schedule {
            Schedule::Eager => 0,
            Schedule::Late => ready.len() - 1,
            Schedule::Random(_) => card.chance(ready.len()),
        };
        let number = ready.remove(place);
        order.push(number);
        for &after in &next[number] {
            missing[after] -= 1;
            if missing[after] == 0 {
                ready.insert(ready.partition_point(|&other| other < after), after);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests;
