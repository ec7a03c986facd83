//! Streams and events: what is queued, and when it runs.
//!
//! A card may run what is queued at any time that the order of each stream and the waits for events allow. Here the host's
//! threads run it, when they queue something or wait, under one of three schedules, so that a program that forgets a wait gets
//! other results. The trick: a stream counts what was queued and what is done, so an event is a stream and a number, and to
//! wait for one is to run that stream until it has counted so far.

use crate::graph::Joined;
use crate::machine::{self, Launch};
use crate::ptx::Kernel;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::Instant;

/// When queued work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// When it is queued.
    Eager,
    /// When somebody waits for it, and then only what that wait needs.
    Late,
    /// At random, from this seed.
    Random(u64),
}

impl Schedule {
    /// From `eager`, `late` or `random:SEED`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "eager" => Some(Schedule::Eager),
            "late" => Some(Schedule::Late),
            _ => text.strip_prefix("random:")?.parse().ok().map(Schedule::Random),
        }
    }
}

/// Something that the card does, once or, in a graph, often; an error is a fault.
#[derive(Clone)]
pub(crate) enum Task {
    /// A kernel, whose arguments a graph can change.
    Kernel(Arc<Kernel>, Arc<Launch>),
    /// Anything else.
    Other(Arc<dyn Fn() -> Result<(), String> + Send + Sync>),
}

impl Task {
    /// Anything but a kernel.
    pub(crate) fn new(run: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Task::Other(Arc::new(run))
    }

    pub(crate) fn run(&self) -> Result<(), String> {
        match self {
            Task::Kernel(kernel, launch) => {
                machine::run(kernel, launch).map_err(|fault| format!("{}: {fault}", kernel.name))
            }
            Task::Other(run) => run(),
        }
    }
}

/// What all streams share.
pub(crate) struct Card {
    pub(crate) schedule: Schedule,
    streams: Mutex<Vec<Arc<Stream>>>,
    /// What each thread does at random.
    wanderers: Mutex<HashMap<ThreadId, Wanderer>>,
    /// What went wrong; nothing runs after that.
    fault: OnceLock<String>,
}

/// A thread's streams, and its chance.
struct Wanderer {
    random: Random,
    /// Those that it queued something in, with work left.
    streams: Vec<Arc<Stream>>,
}

/// A queue of work that is done in order.
pub(crate) struct Stream {
    card: Arc<Card>,
    state: Mutex<State>,
    /// Steps that are done; changes under the lock only.
    done: AtomicU64,
    /// A step is done.
    changed: Condvar,
    /// The recording that the stream takes part in.
    pub(crate) capture: Mutex<Option<Joined>>,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    queued: u64,
    /// Whether a thread is at a step that it took.
    is_running: bool,
}

enum Step {
    Run(Task),
    Record(Arc<Mark>),
    Wait(Arc<Mark>),
}

/// A place in a stream that can be waited for.
pub(crate) struct Mark {
    stream: Arc<Stream>,
    /// Steps that are done once it is reached.
    position: u64,
    time: OnceLock<Instant>,
}

enum Progress {
    Moved,
    /// Another thread is at it.
    Busy,
    Blocked(Arc<Mark>),
    Idle,
}

impl Card {
    pub(crate) fn new(schedule: Schedule) -> Arc<Self> {
        Arc::new(Card {
            schedule,
            streams: Mutex::default(),
            wanderers: Mutex::default(),
            fault: OnceLock::new(),
        })
    }

    /// What went wrong, if anything has.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    #[expect(clippy::print_stderr, reason = "the call that is told of a fault may be far from its cause")]
    fn fail(&self, fault: String) {
        if self.fault.set(fault).is_ok() {
            eprintln!("the emulated card stops: {}", self.fault().unwrap_or_default());
        }
    }

    /// A stream of its own.
    pub(crate) fn stream(self: &Arc<Self>) -> Arc<Stream> {
        let stream = Arc::new(Stream {
            card: self.clone(),
            state: Mutex::default(),
            done: AtomicU64::new(0),
            changed: Condvar::new(),
            capture: Mutex::default(),
        });
        lock(&self.streams).push(stream.clone());
        stream
    }

    /// Runs everything that is queued. At once, where that was done when it was queued: another thread's call may still be at
    /// its own, which is of memory that it has.
    pub(crate) fn synchronize(self: &Arc<Self>) {
        if self.schedule == Schedule::Eager {
            return;
        }
        let streams = lock(&self.streams).clone();
        streams.iter().for_each(Stream::synchronize);
    }

    /// Runs some of what the calling thread's streams have, if that is left to chance.
    fn wander(self: &Arc<Self>) {
        let Schedule::Random(_) = self.schedule else { return };
        let mut order = self.with_wanderer(|wanderer| {
            let Wanderer { random, streams } = wanderer;
            let mut order: Vec<_> =
                streams.iter().map(|stream| (random.next(), random.below(4), stream.clone())).collect();
            order.sort_by_key(|&(key, ..)| key);
            order
        });
        for (_, count, stream) in &mut order {
            let is_moving = |_: &u64| matches!(stream.advance(), Progress::Moved);
            let _ = (0..*count).take_while(is_moving).count();
        }
        self.with_wanderer(|wanderer| wanderer.streams.retain(|stream| !stream.is_idle()));
    }

    /// A number below `limit`, by the calling thread's chance; the seed is 0 unless the schedule has one.
    pub(crate) fn chance(&self, limit: usize) -> usize {
        self.with_wanderer(|wanderer| wanderer.random.below(limit as u64) as usize)
    }

    fn with_wanderer<T>(&self, with: impl FnOnce(&mut Wanderer) -> T) -> T {
        let seed = if let Schedule::Random(seed) = self.schedule { seed } else { 0 };
        let mut wanderers = lock(&self.wanderers);
        let fresh = || Wanderer { random: Random(seed), streams: Vec::new() };
        with(wanderers.entry(std::thread::current().id()).or_insert_with(fresh))
    }
}

impl Stream {
    /// Queues a task.
    pub(crate) fn queue(self: &Arc<Self>, task: Task) {
        self.push(|_| Step::Run(task));
    }

    /// Marks what was queued so far.
    pub(crate) fn record(self: &Arc<Self>) -> Arc<Mark> {
        let mut recorded = None;
        self.push(|position| {
            let mark = Arc::new(Mark { stream: self.clone(), position, time: OnceLock::new() });
            Step::Record(recorded.insert(mark).clone())
        });
        recorded.expect("a step is made at once")
    }

    /// Holds what is queued next back until the mark is reached.
    pub(crate) fn wait(self: &Arc<Self>, mark: &Arc<Mark>) {
        self.push(|_| Step::Wait(mark.clone()));
    }

    fn push(self: &Arc<Self>, step: impl FnOnce(u64) -> Step) {
        let position = {
            let mut state = lock(&self.state);
            state.queued += 1;
            let step = step(state.queued);
            state.steps.push_back(step);
            state.queued
        };
        match self.card.schedule {
            Schedule::Eager => self.run_until(position),
            Schedule::Late => {}
            Schedule::Random(_) => {
                self.card.with_wanderer(|wanderer| {
                    if !wanderer.streams.iter().any(|stream| Arc::ptr_eq(stream, self)) {
                        wanderer.streams.push(self.clone());
                    }
                });
                self.card.wander();
            }
        }
    }

    /// Runs all that is queued.
    pub(crate) fn synchronize(self: &Arc<Self>) {
        let position = lock(&self.state).queued;
        self.run_until(position);
    }

    fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.steps.is_empty() && !state.is_running
    }

    fn run_until(self: &Arc<Self>, position: u64) {
        while self.done.load(Ordering::Acquire) < position {
            self.card.wander();
            match self.advance() {
                Progress::Moved => {}
                Progress::Busy => self.wait_for_other(),
                Progress::Blocked(mark) => mark.reach(),
                Progress::Idle => return,
            }
        }
    }

    /// Waits until no other thread is at a step.
    fn wait_for_other(&self) {
        let state = lock(&self.state);
        let waited = self.changed.wait_while(state, |state| state.is_running);
        drop(waited.unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// Does a step, if there is one and nothing holds it back. No lock is held meanwhile.
    fn advance(&self) -> Progress {
        let mut state = lock(&self.state);
        if state.is_running {
            return Progress::Busy;
        }
        if let Some(Step::Wait(mark)) = state.steps.front()
            && !mark.is_reached()
        {
            return Progress::Blocked(mark.clone());
        }
        let Some(step) = state.steps.pop_front() else { return Progress::Idle };
        state.is_running = true;
        drop(state);
        match step {
            Step::Run(task) if self.card.fault().is_none() => {
                if let Err(fault) = task.run() {
                    self.card.fail(fault);
                }
            }
            Step::Record(mark) => _ = mark.time.set(Instant::now()),
            Step::Run(_) | Step::Wait(_) => {}
        }
        let mut state = lock(&self.state);
        state.is_running = false;
        self.done.fetch_add(1, Ordering::Release);
        self.changed.notify_all();
        Progress::Moved
    }
}

impl Mark {
    pub(crate) fn is_reached(&self) -> bool {
        self.stream.done.load(Ordering::Acquire) >= self.position
    }

    /// Runs what it takes to get there.
    pub(crate) fn reach(&self) {
        self.stream.run_until(self.position);
    }

    /// When it was reached.
    pub(crate) fn time(&self) -> Option<Instant> {
        self.time.get().copied()
    }
}

/// The generator SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
