//! Which thread does which task.
//!
//! Tasks that follow each other share an operand, so each thread has a range of them and begins at its front; whoever has none left
//! takes the last one of another thread. Small tasks are kept for the end, when it is about ending together.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// An operation cut into tasks.
pub(crate) struct Work<'a> {
    /// How many.
    pub(crate) tasks: usize,
    /// How many of them, the last ones, are small.
    pub(crate) small: usize,
    /// Does one of them.
    pub(crate) task: Box<dyn Fn(usize) + Sync + Send + 'a>,
}

/// Tasks that nobody has taken yet.
pub(super) struct Queue {
    /// For each thread the first task and the end of those that are not small, in the low and the high half.
    ranges: Vec<AtomicU64>,
    /// The next small task, and their end.
    small: AtomicUsize,
    end: usize,
}

fn pack(range: Range<u64>) -> u64 {
    range.start | range.end << 32
}

fn unpack(word: u64) -> Range<u64> {
    word & u64::from(u32::MAX)..word >> 32
}

impl Queue {
    /// Of `tasks`, the last `small` of which are small, for `threads`.
    pub(super) fn new(tasks: usize, small: usize, threads: usize) -> Self {
        assert!(u32::try_from(tasks).is_ok() && small <= tasks, "{tasks} tasks, {small} small");
        let whole = (tasks - small) as u64;
        let at = |thread: usize| whole * thread as u64 / threads as u64;
        let ranges = (0..threads).map(|thread| AtomicU64::new(pack(at(thread)..at(thread + 1)))).collect();
        Queue { ranges, small: AtomicUsize::new(tasks - small), end: tasks }
    }

    /// A task for `thread`, while there are any.
    pub(super) fn take(&self, thread: usize) -> Option<usize> {
        let others = self.ranges.iter().cycle().skip(thread + 1).take(self.ranges.len() - 1);
        cut(&self.ranges[thread], |range| range.next())
            .or_else(|| others.into_iter().find_map(|other| cut(other, |range| range.next_back())))
            .or_else(|| Some(self.small.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < self.end))
    }
}

/// Takes a task off a range. What tasks read and write is ordered by the start and the end of all of them, not by this.
fn cut(range: &AtomicU64, end: impl Fn(&mut Range<u64>) -> Option<u64>) -> Option<usize> {
    let mut taken = None;
    let rest = |word| {
        let mut range = unpack(word);
        taken = end(&mut range);
        taken.map(|_| pack(range))
    };
    let _ = range.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    taken.map(|task| task as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_task_is_taken_once() {
        for (tasks, small, threads) in [(0, 0, 1), (1, 1, 4), (7, 0, 3), (100, 13, 1), (1000, 40, 4)] {
            let (queue, taken) = (Queue::new(tasks, small, threads), Mutex::new(Vec::new()));
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (queue, taken) = (&queue, &taken);
                    scope.spawn(move || {
                        while let Some(task) = queue.take(thread) {
                            taken.lock().expect("no thread panics").push(task);
                        }
                    });
                }
            });
            let mut taken = taken.into_inner().expect("no thread panics");
            taken.sort_unstable();
            assert!(taken.into_iter().eq(0..tasks), "{tasks} tasks, {small} small, {threads} threads");
        }
    }

    #[test]
    fn a_thread_begins_with_its_own_and_ends_with_small_ones() {
        let queue = Queue::new(8, 2, 2);
        let order: Vec<_> = std::iter::from_fn(|| queue.take(1)).collect();
        assert_eq!(order, [3, 4, 5, 2, 1, 0, 6, 7]);
    }
}
