//! A file system that keeps of what was written only what it must, and one that fails at any call: what checkpoints are
//! worth when the power goes or the disk is full.
//!
//! Files are pages; a write changes pages in memory, and a crash keeps of every page that was not synced either the old
//! bytes, the new ones, or the first part of the new ones. Sizes are kept or not, apart from the bytes. Names, new and old,
//! are changes of a folder; a crash keeps any of those that were not synced, in any order, each whole. That is less than
//! any journalling file system promises.

use eyas_ops::Rng;
use eyas_train::storage::{Storage, StorageFile};
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Small, so that small files have many.
const PAGE: usize = 64;

type Id = usize;

#[derive(Clone, Default)]
struct File {
    /// What a reader sees, and what survives a crash for certain.
    seen: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Default)]
struct Folder {
    seen: BTreeMap<String, Id>,
    durable: BTreeMap<String, Id>,
    /// Changes since the last sync: names and what they stand for afterwards. A rename is two names at once.
    pending: Vec<Vec<(String, Option<Id>)>>,
}

#[derive(Clone)]
enum Node {
    File(File),
    Folder(Folder),
}

/// The state of a disk.
#[derive(Clone)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    /// Calls so far, and the one that fails with which error.
    num_calls: usize,
    fault: Option<(usize, io::ErrorKind)>,
    /// Calls after which the power is gone: everything fails.
    power: Option<usize>,
}

impl Disk {
    fn folder(&mut self, id: Id) -> &mut Folder {
        match &mut self.nodes[id] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("a file where a folder is meant"),
        }
    }

    fn find(&self, path: &Path) -> io::Result<Id> {
        let mut id = 0;
        for part in path.components().skip(1) {
            let Node::Folder(folder) = &self.nodes[id] else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            let name = part.as_os_str().to_string_lossy();
            id = *folder.seen.get(&*name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(id)
    }

    fn parent(&self, path: &Path) -> io::Result<(Id, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        Ok((self.find(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?, name))
    }

    fn change(&mut self, folder: Id, names: Vec<(String, Option<Id>)>) {
        let folder = self.folder(folder);
        for (name, id) in &names {
            match id {
                Some(id) => folder.seen.insert(name.clone(), *id),
                None => folder.seen.remove(name),
            };
        }
        folder.pending.push(names);
    }

    /// Counts a call, and fails it if it is the one.
    fn call(&mut self) -> io::Result<()> {
        self.num_calls += 1;
        if self.power.is_some_and(|after| self.num_calls > after) {
            return Err(io::Error::other("no power"));
        }
        match self.fault {
            Some((at, kind)) if at == self.num_calls => Err(kind.into()),
            _ => Ok(()),
        }
    }

    /// What is left after a power cut.
    fn crashed(mut self, rng: &mut Rng) -> Self {
        let mut below = |n: u64| rng.next_u64() % n;
        for node in &mut self.nodes {
            match node {
                Node::File(file) => {
                    // The size is a number of its own, which may be on the disk before or after the bytes are.
                    let sizes = [file.durable.len(), file.seen.len()];
                    let size = sizes[below(2) as usize];
                    let mut kept = file.durable.clone();
                    kept.resize(size, 0);
                    for start in (0..size).step_by(PAGE) {
                        let end = (start + PAGE).min(size);
                        let new = &file.seen[start.min(file.seen.len())..end.min(file.seen.len())];
                        let taken = match below(3) {
                            0 => 0,
                            1 => new.len(),
                            _ => below(new.len() as u64 + 1) as usize,
                        };
                        kept[start..start + taken].copy_from_slice(&new[..taken]);
                    }
                    *file = File { seen: kept.clone(), durable: kept };
                }
                Node::Folder(folder) => {
                    let pending = std::mem::take(&mut folder.pending);
                    let mut kept: Vec<_> =
                        pending.into_iter().enumerate().filter(|_| below(2) == 0).collect();
                    // In any order, but that no folder has two names: of what is kept the last one is its own.
                    let mut last = BTreeMap::new();
                    for (at, (name, id)) in
                        kept.iter().flat_map(|(at, names)| names.iter().map(move |name| (at, name)))
                    {
                        id.map(|id| last.insert(id, (*at, name.clone())));
                    }
                    for i in (1..kept.len()).rev() {
                        kept.swap(i, below(i as u64 + 1) as usize);
                    }
                    for (at, names) in kept {
                        for (name, id) in names {
                            match id {
                                Some(id) if last[&id] == (at, name.clone()) => {
                                    folder.durable.insert(name, id)
                                }
                                Some(_) => None,
                                None => folder.durable.remove(&name),
                            };
                        }
                    }
                    // A name from before the crash goes when what it stood for has another.
                    folder.durable.retain(|name, id| last.get(id).is_none_or(|(_, own)| own == name));
                    folder.seen = folder.durable.clone();
                }
            }
        }
        (self.fault, self.power, self.num_calls) = (None, None, 0);
        self
    }
}

/// A file system in memory.
#[derive(Clone)]
pub(crate) struct Simulated(Arc<Mutex<Disk>>);

impl Simulated {
    pub(crate) fn new() -> Self {
        Self::from(Disk {
            nodes: vec![Node::Folder(Folder::default())],
            num_calls: 0,
            fault: None,
            power: None,
        })
    }

    fn from(disk: Disk) -> Self {
        Simulated(Arc::new(Mutex::new(disk)))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        f(&mut self.0.lock().expect("no panic with the lock"))
    }

    /// Calls made since the last of this.
    pub(crate) fn take_num_calls(&self) -> usize {
        self.with(|disk| std::mem::take(&mut disk.num_calls))
    }

    /// From now on, call number `at`, counted from 1, fails with `kind`.
    pub(crate) fn fail_at(&self, at: usize, kind: io::ErrorKind) {
        self.with(|disk| (disk.num_calls, disk.fault) = (0, Some((at, kind))));
    }

    /// From now on everything fails after `calls` calls.
    pub(crate) fn power_for(&self, calls: usize) {
        self.with(|disk| (disk.num_calls, disk.power) = (0, Some(calls)));
    }

    /// The disk as the next boot finds it; what was not synced is kept, lost or torn as `rng` says.
    pub(crate) fn after_power_cut(&self, rng: &mut Rng) -> Self {
        Self::from(self.with(|disk| disk.clone()).crashed(rng))
    }

    /// A copy of it.
    pub(crate) fn copy(&self) -> Self {
        Self::from(self.with(|disk| disk.clone()))
    }
}

struct Open {
    disk: Simulated,
    id: Id,
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.with(|disk| {
            disk.call()?;
            let Node::File(file) = &mut disk.nodes[self.id] else { panic!("a folder was opened") };
            // Writes may be short.
            let taken = bytes.len().min(1 + bytes.len() / 2);
            file.seen.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StorageFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.with(|disk| {
            disk.call()?;
            let Node::File(file) = &mut disk.nodes[self.id] else { panic!("a folder was opened") };
            file.durable = file.seen.clone();
            Ok(())
        })
    }
}

impl Storage for Simulated {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|disk| {
            disk.call()?;
            let (parent, name) = disk.parent(path)?;
            if disk.folder(parent).seen.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            disk.nodes.push(Node::Folder(Folder::default()));
            let id = disk.nodes.len() - 1;
            disk.change(parent, vec![(name, Some(id))]);
            Ok(())
        })
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let id = self.with(|disk| {
            disk.call()?;
            let (parent, name) = disk.parent(path)?;
            disk.nodes.push(Node::File(File::default()));
            let id = disk.nodes.len() - 1;
            disk.change(parent, vec![(name, Some(id))]);
            io::Result::Ok(id)
        })?;
        Ok(Box::new(Open { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|disk| {
            disk.call()?;
            let ((folder, old), (other, new)) = (disk.parent(from)?, disk.parent(to)?);
            assert_eq!(folder, other, "renames stay in their folder");
            let id = disk.find(from)?;
            if let Some(&there) = disk.folder(other).seen.get(&new) {
                let is_full = matches!(&disk.nodes[there], Node::Folder(folder) if !folder.seen.is_empty());
                if is_full {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
            }
            disk.change(folder, vec![(old, None), (new, Some(id))]);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|disk| {
            disk.call()?;
            let id = disk.find(path)?;
            let folder = disk.folder(id);
            folder.durable = folder.seen.clone();
            folder.pending.clear();
            Ok(())
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        // As the operating system's: name after name, and the folder last.
        for (name, is_dir) in self.list(path)? {
            let inner = path.join(&name);
            if is_dir {
                self.remove_dir_all(&inner)?;
                continue;
            }
            self.with(|disk| {
                disk.call()?;
                let folder = disk.find(path)?;
                disk.change(folder, vec![(name, None)]);
                io::Result::Ok(())
            })?;
        }
        self.with(|disk| {
            disk.call()?;
            let (parent, name) = disk.parent(path)?;
            disk.change(parent, vec![(name, None)]);
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.with(|disk| {
            let id = disk.find(path)?;
            let Node::Folder(folder) = &disk.nodes[id] else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            let is_dir = |id: &Id| matches!(disk.nodes[*id], Node::Folder(_));
            Ok(folder.seen.iter().map(|(name, id)| (name.clone(), is_dir(id))).collect())
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        self.with(|disk| {
            let id = disk.find(path)?;
            match &disk.nodes[id] {
                Node::File(file) => Ok(Box::new(Cursor::new(file.seen.clone())) as Box<dyn Read>),
                Node::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
            }
        })
    }

    fn exists(&self, path: &Path) -> bool {
        self.with(|disk| disk.find(path).is_ok())
    }
}

/// Where checkpoints are written on a simulated disk.
pub(crate) fn root() -> PathBuf {
    PathBuf::from("/")
}
