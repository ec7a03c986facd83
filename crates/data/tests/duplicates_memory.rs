//! The memory that duplicates are sought in stays below what was allowed, however many documents there are.

use eyas_data::{NearWriter, Seen, Signature};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with a record of what it holds.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are passed on as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held beyond those before it.
fn most_held(work: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    work();
    MOST.load(Ordering::Relaxed) - before
}

// One test, since the counter is one for all threads.
#[test]
fn memory_is_what_was_allowed() {
    const BUDGET_BYTES: usize = 2 << 20;
    // Files' buffers, and the bands of one chunk of documents.
    const SLACK_BYTES: usize = 3 << 20;
    let dir = tempfile::tempdir().expect("folder");

    // 30 000 documents of a thousand kinds: 15 MB of signatures and 12 MB of bands.
    let signatures: Vec<Signature> = (0..1000)
        .map(|i| (0..40).map(|j| format!("word{} ", i * 40 + j)).collect::<String>())
        .map(|text| Signature::of(&text).expect("forty words"))
        .collect();
    let near = most_held(|| {
        let mut writer = NearWriter::create(dir.path(), BUDGET_BYTES).expect("writer");
        for index in 0..30_000 {
            writer.push(index, &signatures[index as usize % 1000]).expect("push");
        }
        let duplicates = writer.finish().expect("duplicates");
        assert_eq!((duplicates.num_duplicates(), duplicates.num_clusters()), (29_000, 1000));
    });
    assert!(near < BUDGET_BYTES + SLACK_BYTES, "near duplicates took {near} bytes");

    // A million hashes: 16 MB.
    let exact = most_held(|| {
        let hash =
            |number: u128| number.wrapping_mul(0x2d35_8dcc_aa6c_78a5_8bb8_4b93_962e_acc9).to_be_bytes();
        let mut seen = Seen::create(dir.path(), BUDGET_BYTES).expect("set");
        assert!((0..1_000_000).all(|number| seen.insert(hash(number)).expect("insert")));
        drop(seen);
        let mut seen = Seen::resume(dir.path(), BUDGET_BYTES, 1_000_000).expect("set");
        assert!((0..1_000_000).all(|number| !seen.insert(hash(number)).expect("insert")));
    });
    assert!(exact < BUDGET_BYTES + SLACK_BYTES, "exact duplicates took {exact} bytes");
}
