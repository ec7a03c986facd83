//! The whole of it: planted and generated documents against theory and brute force, giant bands, threads, restarts,
//! damaged files, a full disk.

use super::bands::{BANDS, ROWS, THRESHOLD};
use super::minhash::LANES;
use super::minhash::tests::{numbered, planted};
use super::words::{AS_WRITTEN, Words};
use super::*;
use crate::Error;
use crate::permutation::mix;
use std::collections::HashSet;
use std::path::Path;
use tempfile::TempDir;

const BUDGET_BYTES: usize = 1 << 20;

fn folder() -> TempDir {
    tempfile::tempdir().expect("folder")
}

fn signature(text: &str) -> Signature {
    Signature::of(text).expect("ten words")
}

/// The duplicates of documents 0, 1, ...
fn near(signatures: &[Signature], budget_bytes: usize) -> NearDuplicates {
    let dir = folder();
    let mut writer = NearWriter::create(dir.path(), budget_bytes).expect("writer");
    for (index, signature) in (0..).zip(signatures) {
        writer.push(index, signature).expect("push");
    }
    writer.finish().expect("duplicates")
}

/// What every document is a duplicate of.
fn kept(duplicates: &NearDuplicates, num_documents: u64) -> Vec<Option<u64>> {
    (0..num_documents).map(|index| duplicates.kept_for(index)).collect()
}

/// Numbers as good as random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        mix(mix(self.0))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, probability: f64) -> bool {
        (self.next() as f64) < probability * 2f64.powi(64)
    }
}

/// The probability that documents of Jaccard index `jaccard` are found: all lanes of a band agree, and enough of all.
fn theory(jaccard: f64, random: &mut Random) -> f64 {
    const TRIALS: u32 = 4000;
    let mut num_found = 0;
    for _ in 0..TRIALS {
        let equal: [bool; LANES] = std::array::from_fn(|_| random.chance(jaccard));
        let is_candidate = equal.as_chunks::<ROWS>().0.iter().any(|band| band.iter().all(|lane| *lane));
        let num_equal = equal.iter().filter(|lane| **lane).count();
        num_found += u32::from(is_candidate && num_equal as f64 >= THRESHOLD * LANES as f64);
    }
    f64::from(num_found) / f64::from(TRIALS)
}

#[test]
fn recall_of_planted_pairs_follows_theory() {
    const PAIRS: usize = 150;
    let wanted = [0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9];
    let (mut firsts, mut seconds, mut exact) = (Vec::new(), Vec::new(), Vec::new());
    for (group, jaccard) in wanted.into_iter().enumerate() {
        for pair in 0..PAIRS {
            let (a, b, j) = planted((group * PAIRS + pair) as u32, jaccard);
            firsts.push(signature(&a));
            seconds.push(signature(&b));
            exact.push(j);
        }
    }
    let num_pairs = firsts.len();
    firsts.append(&mut seconds);
    let duplicates = near(&firsts, BUDGET_BYTES);
    let mut random = Random(1);
    for group in 0..wanted.len() {
        let pairs = group * PAIRS..(group + 1) * PAIRS;
        let found = pairs.clone().filter(|pair| {
            let kept = duplicates.kept_for((num_pairs + pair) as u64);
            assert!(kept.is_none_or(|kept| kept == *pair as u64), "a stranger: {pair} and {kept:?}");
            kept.is_some()
        });
        let share = found.count() as f64 / PAIRS as f64;
        let want = theory(exact[pairs.start], &mut random);
        let error = 4.0 * (want * (1.0 - want) / PAIRS as f64).sqrt() + 2.0 / PAIRS as f64;
        assert!((share - want).abs() < error, "{}: {share}, expected {want} ± {error}", exact[pairs.start]);
    }
    assert!((0..num_pairs as u64).all(|first| !duplicates.is_duplicate(first)), "the first is kept");
}

/// Programs, and copies of them in which some words are other ones.
fn generated_code(num_programs: usize) -> Vec<String> {
    let mut random = Random(7);
    let mut texts = Vec::new();
    for _ in 0..num_programs {
        let words: Vec<u64> = (0..100 + random.below(300)).map(|_| random.below(400)).collect();
        for rate in [0.0, 0.005, 0.01, 0.02, 0.04, 0.1, 0.3] {
            let mut text = String::from("fn main() {\n");
            for word in &words {
                let word = if random.chance(rate) { 1000 + random.below(1000) } else { *word };
                text += ["let ", ".", "(", "; ", " = ", "\n    "][(word % 6) as usize];
                text += &format!("name_{word:x}");
            }
            texts.push(text);
        }
    }
    texts
}

fn shingles(text: &str) -> HashSet<Vec<u64>> {
    let words: Vec<u64> = Words::new(text, &AS_WRITTEN).map(|word| word.hash).collect();
    words.windows(5).map(<[u64]>::to_vec).collect()
}

#[test]
fn generated_code_agrees_with_brute_force() {
    let texts = generated_code(40);
    let signatures: Vec<Signature> = texts.iter().map(|text| signature(text)).collect();
    let duplicates = near(&signatures, BUDGET_BYTES);
    let sets: Vec<HashSet<Vec<u64>>> = texts.iter().map(|text| shingles(text)).collect();
    let first = |index: usize| duplicates.kept_for(index as u64).unwrap_or(index as u64);
    let (mut num_similar, mut num_found) = (0, 0);
    let mut most = vec![0.0f64; texts.len()];
    for a in 0..texts.len() {
        for b in 0..a {
            let common = sets[a].intersection(&sets[b]).count() as f64;
            let jaccard = common
                / (sets[a].len() + sets[b].len()) as f64
                / (1.0 - common / (sets[a].len() + sets[b].len()) as f64);
            let estimate = signatures[a].similarity(&signatures[b]);
            assert!((jaccard - estimate).abs() < 0.16, "five standard errors: {jaccard}, {estimate}");
            if first(a) == first(b) {
                (most[a], most[b]) = (most[a].max(jaccard), most[b].max(jaccard));
            }
            num_similar += usize::from(jaccard >= THRESHOLD);
            num_found += usize::from(jaccard >= THRESHOLD && first(a) == first(b));
            assert!(jaccard < 0.8 || first(a) == first(b), "{a} and {b} are alike: {jaccard}");
        }
    }
    assert!(
        num_similar > 200 && num_found as f64 >= 0.95 * num_similar as f64,
        "{num_found} of {num_similar}"
    );
    for (index, most) in most.iter().enumerate() {
        assert!(!duplicates.is_duplicate(index as u64) || *most > 0.6, "{index} is like no other: {most}");
    }
}

#[test]
fn the_result_depends_on_the_documents_alone() {
    let signatures: Vec<Signature> = generated_code(300).iter().map(|text| signature(text)).collect();
    let num_documents = signatures.len() as u64;
    let want = near(&signatures, 64 << 20);
    assert!(want.num_duplicates() > 1000 && want.num_clusters() >= 290);
    for (num_threads, budget_bytes) in [(1, 64 << 10), (2, 100_000), (4, BUDGET_BYTES)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().expect("threads");
        let got = pool.install(|| near(&signatures, budget_bytes));
        assert_eq!(kept(&got, num_documents), kept(&want, num_documents), "{num_threads} threads");
        assert_eq!(got.largest_clusters(), want.largest_clusters());
        assert_eq!((got.num_clusters(), got.num_duplicates()), (want.num_clusters(), want.num_duplicates()));
    }
}

#[test]
fn a_chain_is_one_cluster_and_the_report_shows_it() {
    // Each has 19 of 20 parts of the one before.
    let texts: Vec<String> = (0..30).map(|i| numbered(i * 20..i * 20 + 400)).collect();
    let mut signatures: Vec<Signature> = texts.iter().map(|text| signature(text)).collect();
    assert!(signatures[0].similarity(&signatures[29]) < 0.1);
    signatures.push(signature(&numbered(100_000..100_400)));
    let duplicates = near(&signatures, BUDGET_BYTES);
    assert_eq!((duplicates.num_clusters(), duplicates.num_duplicates()), (1, 29));
    let want = Cluster { num_documents: 30, documents: (0..10).collect() };
    assert_eq!(duplicates.largest_clusters(), [want]);
    assert_eq!(duplicates.kept_for(29), Some(0));
    assert!(
        !duplicates.is_duplicate(0) && !duplicates.is_duplicate(30) && !duplicates.is_duplicate(u64::MAX)
    );
}

#[test]
fn giant_bands_are_no_giant_work() {
    const COPIES: u64 = 50_000;
    // Copies of one document: every band is shared by all.
    let duplicates = near(&vec![signature(&numbered(0..100)); COPIES as usize], 8 << 20);
    assert_eq!((duplicates.num_clusters(), duplicates.num_duplicates()), (1, COPIES - 1));
    assert_eq!(duplicates.largest_clusters()[0].num_documents, COPIES);
    // Documents that share one band and nothing else.
    let mut random = Random(3);
    let strangers: Vec<Signature> = (0..20_000)
        .map(|_| {
            let lanes: [u16; LANES] =
                std::array::from_fn(|lane| if lane < ROWS { 7 } else { random.next() as u16 });
            bytemuck::cast(lanes)
        })
        .collect();
    assert_eq!(near(&strangers, 8 << 20).num_duplicates(), 0);
}

#[test]
fn no_documents_and_one() {
    assert_eq!(near(&[], BUDGET_BYTES).num_duplicates(), 0);
    let one = near(&[signature(&numbered(0..20))], BUDGET_BYTES);
    assert_eq!((one.num_duplicates(), one.num_clusters(), one.largest_clusters().len()), (0, 0, 0));
}

/// Appends bytes as a process does that is killed in the middle of a write.
fn tear(path: &Path, bytes: &[u8]) {
    let mut contents = std::fs::read(path).expect("log");
    contents.extend_from_slice(bytes);
    std::fs::write(path, contents).expect("log");
}

#[test]
fn near_goes_on_after_a_kill() {
    let signatures: Vec<Signature> = generated_code(40).iter().map(|text| signature(text)).collect();
    // Every third document has no signature.
    let index = |number: usize| (number + number / 2) as u64;
    let want = near(&signatures, BUDGET_BYTES);
    for cut in [0, 1, 100, signatures.len()] {
        let dir = folder();
        let log = dir.path().join("near-signatures");
        let mut writer = NearWriter::create(dir.path(), BUDGET_BYTES).expect("writer");
        for (number, signature) in signatures[..cut].iter().enumerate() {
            writer.push(index(number), signature).expect("push");
        }
        writer.sync().expect("sync");
        // More were written than were noted, and the last of them in part.
        for extra in 0..3 {
            writer.push(1_000_000 + extra, &signatures[0]).expect("push");
        }
        drop(writer);
        tear(&log, &[1; 77]);
        let mut writer = NearWriter::resume(dir.path(), BUDGET_BYTES, cut as u64).expect("writer");
        assert_eq!(writer.num_signatures(), cut as u64);
        for (number, signature) in signatures.iter().enumerate().skip(cut) {
            writer.push(index(number), signature).expect("push");
        }
        // And once more, in the middle of the search.
        writer.sync().expect("sync");
        let found =
            NearWriter::resume(dir.path(), BUDGET_BYTES, signatures.len() as u64).expect("writer").finish();
        for duplicates in [found, writer.finish()] {
            let duplicates = duplicates.expect("duplicates");
            for number in 0..signatures.len() {
                let kept = want.kept_for(number as u64).map(|kept| index(kept as usize));
                assert_eq!(duplicates.kept_for(index(number)), kept, "{number}");
            }
        }
    }
}

#[test]
fn damaged_files_are_errors() {
    let signatures: Vec<Signature> = (0..10).map(|i| signature(&numbered(i * 50..i * 50 + 50))).collect();
    let dir = folder();
    let log = dir.path().join("near-signatures");
    assert!(matches!(NearWriter::resume(dir.path(), BUDGET_BYTES, 0), Err(Error::Write { .. })), "no file");
    let mut writer = NearWriter::create(dir.path(), BUDGET_BYTES).expect("writer");
    for (index, signature) in (1..).zip(&signatures) {
        writer.push(index, signature).expect("push");
    }
    drop(writer);
    let offset_of = |error| match error {
        Error::DamagedScratch { path, offset, .. } if path == log => offset,
        other => panic!("{other}"),
    };
    for num_signatures in [11, u64::MAX] {
        let resumed = NearWriter::resume(dir.path(), BUDGET_BYTES, num_signatures);
        assert_eq!(offset_of(resumed.err().expect("too few")), 5200);
    }
    // A page that never reached the disk.
    let mut bytes = std::fs::read(&log).expect("log");
    bytes[520 * 4..520 * 6].fill(0);
    std::fs::write(&log, bytes).expect("log");
    let writer = NearWriter::resume(dir.path(), BUDGET_BYTES, 10).expect("writer");
    assert_eq!(offset_of(writer.finish().err().expect("zeros")), 520 * 4);
    let small = NearWriter::create(dir.path(), 1000).err().expect("too small").to_string();
    assert!(small.contains("1000 bytes"), "{small}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let dir = folder();
    for name in ["near-signatures", "exact-hashes"] {
        std::os::unix::fs::symlink("/dev/full", dir.path().join(name)).expect("link");
    }
    let signature = signature(&numbered(0..20));
    let mut near = NearWriter::create(dir.path(), BUDGET_BYTES).expect("writer");
    let error = (0..10_000).find_map(|index| near.push(index, &signature).err()).expect("an error");
    assert!(error.to_string().contains("near-signatures: No space left"), "{error}");
    assert!(
        matches!(near.sync(), Err(Error::Write { .. })) && matches!(near.finish(), Err(Error::Write { .. }))
    );
    let mut seen = Seen::create(dir.path(), 1 << 20).expect("set");
    assert!(seen.insert([1; 16]).expect("held back"));
    let error = seen.sync().expect_err("an error").to_string();
    assert!(error.contains("exact-hashes: No space left"), "{error}");
}

fn hash(number: u64) -> [u8; 16] {
    (u128::from(mix(number)) << 64 | u128::from(mix(number ^ 1 << 63))).to_be_bytes()
}

fn remembers(num_hashes: u64, budget_bytes: usize) {
    let dir = folder();
    let mut seen = Seen::create(dir.path(), budget_bytes).expect("set");
    for number in 0..num_hashes {
        assert!(seen.insert(hash(number)).expect("insert"), "{number} is new");
        // One from anywhere before.
        if number % 8 == 0 {
            let before = mix(number) % (number + 1);
            assert!(!seen.insert(hash(before)).expect("insert"), "{before} is old at {number}");
        }
    }
    assert_eq!(seen.num_hashes(), num_hashes);
    for number in (0..num_hashes).step_by(97) {
        assert!(!seen.insert(hash(number)).expect("insert"), "{number} is old");
    }
}

#[test]
fn a_set_larger_than_its_memory_remembers_all() {
    remembers(1_000_000, 1 << 20);
}

#[test]
#[ignore = "half a minute; the one above is the same with fewer"]
fn a_set_of_ten_millions_remembers_all() {
    remembers(10_000_000, 8 << 20);
}

#[test]
fn a_set_is_restored_as_it_was() {
    // Every number twice, in an order of its own; among them the hash of zeros.
    let hashes: Vec<[u8; 16]> = (0..20_000).map(|i| hash(mix(i) % 7000)).chain([[0; 16]]).collect();
    let dir = folder();
    let mut seen = Seen::create(dir.path(), 0).expect("set");
    let want: Vec<bool> = hashes.iter().map(|hash| seen.insert(*hash).expect("insert")).collect();
    let unique: HashSet<&[u8; 16]> = hashes.iter().collect();
    assert_eq!(seen.num_hashes(), unique.len() as u64);
    drop(seen);
    for cut in [20_001, 12_345, 100, 0] {
        let num_hashes = want[..cut].iter().filter(|new| **new).count() as u64;
        tear(&dir.path().join("exact-hashes"), &[9; 5]);
        let mut seen = Seen::resume(dir.path(), 4096, num_hashes).expect("set");
        assert_eq!(seen.num_hashes(), num_hashes);
        let got: Vec<bool> = hashes[cut..].iter().map(|hash| seen.insert(*hash).expect("insert")).collect();
        assert_eq!(got, want[cut..], "{cut}");
        assert!(hashes[..cut].iter().all(|hash| !seen.insert(*hash).expect("insert")), "{cut}");
    }
}

#[test]
fn a_damaged_set_is_an_error() {
    let dir = folder();
    let log = dir.path().join("exact-hashes");
    let mut seen = Seen::create(dir.path(), 4096).expect("set");
    for number in 0..100 {
        seen.insert(hash(number)).expect("insert");
    }
    drop(seen);
    let good = std::fs::read(&log).expect("log");
    let damage = |bytes: &[u8], num_hashes| {
        std::fs::write(&log, bytes).expect("log");
        match Seen::resume(dir.path(), 4096, num_hashes) {
            Err(Error::DamagedScratch { offset, found, .. }) => (offset, found),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    };
    assert_eq!(damage(&good, 101), (1600, "the end of the file".to_owned()));
    assert_eq!(damage(&good[..1599], 100).0, 1599);
    let mut zeros = good.clone();
    zeros[160..320].fill(0);
    assert_eq!(damage(&zeros, 100), (160, "zeros".to_owned()));
    let mut twice = good.clone();
    twice.copy_within(0..16, 800);
    assert_eq!(damage(&twice, 100), (800, "one that came before".to_owned()));
}

#[test]
fn bands_are_of_the_whole_signature() {
    assert_eq!(BANDS * ROWS, LANES);
}
