//! A queue between two threads that is bounded by the bytes in it.
//!
//! The standard library's bounded channel counts items, but an item here is anything from one short row to one of 64 MiB;
//! a bound that holds for both would leave the short ones no room to be read ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A queue that holds up to `most_bytes`, or a single item that is larger.
pub(super) fn queue<T>(most_bytes: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), bytes: 0, sender_gone: false, receiver_gone: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Sender { shared: shared.clone(), most_bytes }, Receiver { shared })
}

/// The end that puts items in. Dropping it ends the queue.
pub(super) struct Sender<T> {
    shared: Arc<Shared<T>>,
    most_bytes: usize,
}

/// The end that takes items out. Dropping it tells the sender to stop.
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Only one side can wait at a time: the sender on a full queue, the receiver on an empty one.
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    sender_gone: bool,
    receiver_gone: bool,
}

impl<T> Shared<T> {
    /// No code panics while it holds the lock, so a poisoned state is a good one.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    /// Puts in an item of `bytes` bytes as soon as there is room. False where nobody receives any longer.
    #[must_use]
    pub(super) fn send(&self, item: T, bytes: usize) -> bool {
        let mut state = self.shared.lock();
        while !state.receiver_gone && !state.items.is_empty() && state.bytes + bytes > self.most_bytes {
            state = self.shared.wait(state);
        }
        if state.receiver_gone {
            return false;
        }
        state.items.push_back((item, bytes));
        state.bytes += bytes;
        self.shared.changed.notify_one();
        true
    }
}

impl<T> Receiver<T> {
    /// The next item as soon as there is one. `None` where the sender is gone and the queue is empty.
    pub(super) fn receive(&self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            if let Some((item, bytes)) = state.items.pop_front() {
                state.bytes -= bytes;
                self.shared.changed.notify_one();
                return Some(item);
            }
            if state.sender_gone {
                return None;
            }
            state = self.shared.wait(state);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.lock().sender_gone = true;
        self.shared.changed.notify_one();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_gone = true;
        // Nobody will take these, and the sender may live a while.
        state.items.clear();
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_bound_and_both_ends() {
        let (sender, receiver) = queue(10);
        let thread = std::thread::spawn(move || {
            let sizes = [1, 100, 9, 1, 10, 3];
            sizes.iter().enumerate().all(|(i, bytes)| sender.send(i, *bytes))
        });
        let all: Vec<usize> = std::iter::from_fn(|| receiver.receive()).collect();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        assert!(thread.join().expect("no panic"));

        let (sender, receiver) = queue(10);
        let thread = std::thread::spawn(move || while sender.send((), 6) {});
        assert_eq!(receiver.receive(), Some(()));
        drop(receiver);
        thread.join().expect("a sender that waits is told");
    }
}
