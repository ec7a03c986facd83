//! When queued work runs, under each schedule.

use super::*;
use std::sync::atomic::AtomicU64;

/// A number that tasks change.
#[derive(Clone, Default)]
struct Cell(Arc<AtomicU64>);

impl Cell {
    fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// A task that stores `value`.
    fn set(&self, value: u64) -> Task {
        let cell = self.0.clone();
        Task::new(move || {
            cell.store(value, Ordering::SeqCst);
            Ok(())
        })
    }

    /// A task that stores what another has.
    fn copy(&self, from: &Cell) -> Task {
        let (to, from) = (self.0.clone(), from.0.clone());
        Task::new(move || {
            to.store(from.load(Ordering::SeqCst), Ordering::SeqCst);
            Ok(())
        })
    }
}

/// What the second of two streams reads of what the first writes, with and without a wait.
fn read_across(schedule: Schedule, waits: bool) -> u64 {
    let card = Card::new(schedule);
    let [first, second] = [card.stream(), card.stream()];
    let [written, read] = [Cell::default(), Cell::default()];
    first.queue(written.set(1));
    if waits {
        second.wait(&first.record());
    }
    second.queue(read.copy(&written));
    second.synchronize();
    read.get()
}

#[test]
fn a_missing_wait_shows() {
    assert_eq!(read_across(Schedule::Eager, false), 1);
    assert_eq!(read_across(Schedule::Late, false), 0);
    let at_random: Vec<_> = (0..100).map(|seed| read_across(Schedule::Random(seed), false)).collect();
    assert!(at_random.contains(&0) && at_random.contains(&1));
    let again: Vec<_> = (0..100).map(|seed| read_across(Schedule::Random(seed), false)).collect();
    assert_eq!(at_random, again);
}

#[test]
fn a_wait_is_kept() {
    let at_random = (0..100).map(Schedule::Random);
    for schedule in [Schedule::Eager, Schedule::Late].into_iter().chain(at_random) {
        assert_eq!(read_across(schedule, true), 1, "{schedule:?}");
    }
}

#[test]
fn late_work_is_only_what_a_wait_needs() {
    let card = Card::new(Schedule::Late);
    let [first, second] = [card.stream(), card.stream()];
    let [a, b, c, d] = [(); 4].map(|()| Cell::default());
    first.queue(a.set(1));
    let early = first.record();
    second.wait(&early);
    second.queue(c.set(1));
    // A later mark of the first stream does not change what the second waits for.
    first.queue(b.set(1));
    let late = first.record();
    second.queue(d.set(1));
    assert_eq!([&a, &b, &c, &d].map(Cell::get), [0; 4]);
    early.reach();
    assert_eq!([&a, &b, &c, &d].map(Cell::get), [1, 0, 0, 0]);
    second.synchronize();
    assert_eq!([&a, &b, &c, &d].map(Cell::get), [1, 0, 1, 1]);
    assert!(early.is_reached() && early.time().is_some() && !late.is_reached() && late.time().is_none());
    card.synchronize();
    assert!(late.is_reached() && b.get() == 1);
}

#[test]
fn nothing_runs_after_a_fault() {
    let card = Card::new(Schedule::Late);
    let stream = card.stream();
    let after = Cell::default();
    stream.queue(Task::new(|| Err("a test's fault".to_string())));
    stream.queue(after.set(1));
    assert_eq!(card.fault(), None);
    stream.synchronize();
    assert_eq!((card.fault(), after.get()), (Some("a test's fault"), 0));
}

#[test]
fn threads_run_each_others_work_and_keep_its_order() {
    for schedule in [Schedule::Eager, Schedule::Late, Schedule::Random(3)] {
        let card = Card::new(schedule);
        let (shared, count) = (card.stream(), Cell::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let [own, beside] = [card.stream(), card.stream()];
                    let [written, read] = [Cell::default(), Cell::default()];
                    for step in 1..=200 {
                        own.queue(written.set(step));
                        beside.wait(&own.record());
                        beside.queue(read.copy(&written));
                        own.wait(&beside.record());
                        // Not atomic: tasks of one stream never run at the same time.
                        let count = count.0.clone();
                        let add = move || {
                            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                            Ok(())
                        };
                        shared.queue(Task::new(add));
                        if step % 50 == 0 {
                            own.synchronize();
                            assert_eq!(read.get(), step);
                        }
                    }
                    shared.synchronize();
                });
            }
        });
        assert_eq!(count.get(), 800, "{schedule:?}");
    }
}
