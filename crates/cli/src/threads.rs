//! Work on a list in memory, dealt to threads.

use crate::errors::Outcome;
use eyas_token::WordCounts;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Deals `items` to threads that begin new, one at a time, and returns what each has made.
pub(crate) fn deal<I: Sync, T: Default + Send>(
    num_threads: usize,
    items: &[I],
    work: impl Fn(&mut T, &I) -> Outcome + Sync,
) -> Outcome<Vec<T>> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut made = T::default();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut made, item)?;
        }
        Ok(made)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..num_threads).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Counts the words of texts, which does not depend on how they are dealt.
pub(crate) fn count_words<I: Sync>(
    num_threads: usize,
    items: &[I],
    text: impl Fn(&I) -> &str + Sync,
) -> Outcome<WordCounts> {
    let mut all = WordCounts::new();
    let parts = deal(num_threads, items, |counts: &mut WordCounts, item| {
        counts.add(text(item));
        Ok(())
    })?;
    parts.into_iter().for_each(|part| all.merge(part));
    Ok(all)
}
