//! What a checkpoint is worth when the power goes, the disk fails, or bits turn.

use crate::common::{World, run_to_end};
use crate::simulated::{Simulated, root};
use eyas_ops::Rng;
use eyas_train::storage::Storage;
use eyas_train::{Checkpoint, Contents, Error, FileOut, Retention, checkpoint};
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// Content of a file of the checkpoint of `step`: some pages long, another for each step.
fn content(step: u64, name: &str) -> Vec<u8> {
    let mut rng = Rng::new(
        name.bytes().fold(step.wrapping_mul(31), |key, byte| key.wrapping_mul(31) + u64::from(byte)),
    );
    let len = 100 + rng.next_u64() % 400;
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

const FILES: [&str; 5] =
    ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "README.md"];

fn contents(step: u64) -> Contents<'static> {
    let file = |name: &'static str| {
        let bytes = content(step, name);
        FileOut::new(name, move |out| out.write_all(&bytes))
    };
    let state = json!({"global_step": step, "stateful_callbacks": {"eyas": {"settings": {}}}});
    Contents {
        step,
        files: FILES.map(file).into(),
        state: state.as_object().cloned().unwrap_or_else(Map::new),
    }
}

fn save(disk: &Simulated, step: u64, limit: Option<usize>, best: Option<u64>) -> Result<(), Error> {
    checkpoint::write(disk, &root(), contents(step))?;
    Retention { limit, best }.apply(disk, &root(), step).map(|_| ())
}

fn steps(disk: &Simulated) -> Vec<u64> {
    checkpoint::list_in(disk, &root()).expect("listed").into_iter().map(|(step, _)| step).collect()
}

/// The newest checkpoint that would be resumed from. Panics if it is not what was written.
fn newest(disk: &Simulated, seed: u64) -> Option<u64> {
    let found = match checkpoint::newest_whole(disk, &root(), &mut |_| {}) {
        Ok(found) => found?,
        Err(Error::NoWholeCheckpoint { .. }) => return None,
        Err(error) => panic!("seed {seed}: {error}"),
    };
    let step = found.step().expect("a step");
    assert_eq!(found.path, checkpoint::path(&root(), step), "seed {seed}: another checkpoint's state");
    for name in FILES {
        let mut bytes = Vec::new();
        disk.open(&found.path.join(name)).and_then(|mut file| file.read_to_end(&mut bytes)).expect("read");
        assert!(bytes == content(step, name), "seed {seed}: {name} of step {step} is not what was written");
    }
    Some(step)
}

/// Removes what a killed run left, as a run does at its start.
fn sweep(disk: &Simulated) {
    for (name, _) in disk.list(&root()).expect("listed") {
        if name.starts_with(".checkpoint-") {
            disk.remove_dir_all(&root().join(name)).expect("removed");
        }
    }
}

/// A run that saves and loses power at any call; then, several times, goes on from what it finds.
fn survive(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut disk = Simulated::new();
    let limit = [None, Some(1), Some(2), Some(3)][(rng.next_u64() % 4) as usize];
    let (mut step, mut best) = (0, None);
    // The newest checkpoint that a save has reported: it may never be lost.
    let mut reported: Option<u64> = None;
    for _ in 0..3 {
        disk.power_for((rng.next_u64() % 120) as usize);
        loop {
            step += 1 + rng.next_u64() % 3;
            if best.is_none() || rng.next_u64().is_multiple_of(3) {
                best = Some(step);
            }
            let written = checkpoint::write(&disk, &root(), contents(step));
            if written.is_err() {
                break;
            }
            reported = Some(step);
            if (Retention { limit, best }).apply(&disk, &root(), step).is_err() {
                break;
            }
        }
        disk = disk.after_power_cut(&mut rng);
        let found = newest(&disk, seed);
        assert!(found >= reported, "seed {seed}: {reported:?} was reported as saved, and {found:?} is found");
        sweep(&disk);
        step = found.unwrap_or(0);
        best = best.filter(|best| Some(*best) <= found);
        if let Some(best) = best.filter(|best| reported >= Some(*best) && steps(&disk).contains(best)) {
            assert!(
                Checkpoint::open_in(&disk, &checkpoint::path(&root(), best)).is_ok(),
                "seed {seed}: the best, {best}, is broken"
            );
        }
        reported = found;
    }
}

/// `EYAS_SEEDS=first..end` runs others.
#[test]
fn no_power_cut_loses_a_checkpoint_that_was_reported_or_makes_a_wrong_one() {
    let seeds = std::env::var("EYAS_SEEDS").ok().and_then(|text| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    });
    seeds.unwrap_or(0..10_000).for_each(survive);
}

/// The simulated disk would show it: without syncs, checkpoints are lost or torn.
#[test]
fn the_simulated_disk_finds_a_writer_that_does_not_sync() {
    struct Careless(Simulated);
    struct NoSync(Box<dyn eyas_train::storage::StorageFile>);
    impl io::Write for NoSync {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    impl eyas_train::storage::StorageFile for NoSync {
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Storage for Careless {
        fn create_dir(&self, path: &Path) -> io::Result<()> {
            self.0.create_dir(path)
        }
        fn create(&self, path: &Path) -> io::Result<Box<dyn eyas_train::storage::StorageFile>> {
            Ok(Box::new(NoSync(self.0.create(path)?)))
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.0.sync_dir(path)
        }
        fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
            self.0.remove_dir_all(path)
        }
        fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
            self.0.list(path)
        }
        fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
            self.0.open(path)
        }
        fn exists(&self, path: &Path) -> bool {
            self.0.exists(path)
        }
    }
    let lost = (0..100).filter(|&seed| {
        let disk = Careless(Simulated::new());
        checkpoint::write(&disk, &root(), contents(1)).expect("saved");
        newest(&disk.0.after_power_cut(&mut Rng::new(seed)), seed).is_none()
    });
    assert!(lost.count() > 90);
}

#[test]
fn a_disk_that_fails_at_any_call_leaves_the_checkpoints_before_whole() {
    let before = Simulated::new();
    for step in [1, 2] {
        save(&before, step, Some(2), None).expect("saved");
    }
    before.take_num_calls();
    let whole = before.copy();
    save(&whole, 3, Some(2), None).expect("saved");
    let num_calls = whole.take_num_calls();
    assert!(num_calls > 20, "{num_calls}");
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for at in 1..=num_calls {
            let disk = before.copy();
            disk.fail_at(at, kind);
            let result = save(&disk, 3, Some(2), None);
            let found = newest(&disk, at as u64);
            assert!(found >= Some(2), "call {at}: {found:?}");
            if let Err(error) = &result {
                assert!(matches!(error, Error::Io { .. }), "call {at}: {error}");
                assert!(
                    error.to_string().contains("checkpoint") || error.to_string().contains('/'),
                    "{error}"
                );
            }
            // The disk works again: the next save succeeds, and everything is as if nothing had been.
            save(&disk, 4, Some(2), None).expect("saved");
            assert_eq!(newest(&disk, at as u64), Some(4));
            sweep(&disk);
            let left: BTreeSet<_> = steps(&disk).into_iter().collect();
            assert!(left.contains(&4) && left.len() <= 2, "call {at}: {left:?}");
        }
    }
}

/// Bits flipped and ends cut off, at a thousand places of each file.
#[test]
fn damage_anywhere_is_found_and_named() {
    let world = World::new();
    run_to_end(world.config("out", &[("max_steps", "1")]).expect("valid"));
    let folder = world.path("out/checkpoint-1");
    let mut rng = Rng::new(7);
    let mut num_files = 0;
    for entry in fs::read_dir(&folder).expect("listed") {
        let path = entry.expect("listed").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = fs::read(&path).expect("read");
        num_files += 1;
        for i in 0..1_000 {
            let mut damaged = bytes.clone();
            let at = (rng.next_u64() % bytes.len() as u64) as usize;
            match i % 4 {
                0 => damaged.truncate(at),
                1 => damaged.push(0),
                _ => damaged[at] ^= 1 << (rng.next_u64() % 8),
            }
            fs::write(&path, &damaged).expect("written");
            let error = Checkpoint::open(&folder).expect_err("damaged").to_string();
            assert!(error.contains(&name), "{name} at {at}: {error}");
        }
        fs::write(&path, &bytes).expect("written");
        Checkpoint::open(&folder).expect("whole again");
    }
    assert!(num_files >= 8, "{num_files} files");
}
