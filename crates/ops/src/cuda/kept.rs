//! Files of the cache folder, which several processes and machines may share, and which may be lost or damaged at any time.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes a file so that it is whole at any time, whoever else writes it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Processes in containers of their own may have the same number.
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}-{time:x}.partial", std::process::id()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let written = std::fs::File::create_new(&partial)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&partial, path));
    // A full disk is not filled further.
    written.inspect_err(|_| _ = std::fs::remove_file(&partial))
}

/// Writes `bytes` with their hash.
pub(super) fn write_hashed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, &[blake3::hash(bytes).as_bytes(), bytes].concat())
}

/// What [`write_hashed`] wrote; `None` if it is not there or is not what was written.
pub(super) fn read_hashed(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let (hash, content) = bytes.split_at_checked(blake3::OUT_LEN)?;
    if blake3::hash(content).as_bytes() != hash {
        return None;
    }
    bytes.drain(..blake3::OUT_LEN);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_none() {
        let folder = std::env::temp_dir().join(format!("eyas-kept-{}", std::process::id()));
        let path = folder.join("a.kernels");
        assert_eq!(read_hashed(&path), None);
        for content in [&b""[..], b"kernels"] {
            write_hashed(&path, content).expect("written");
            assert_eq!(read_hashed(&path).as_deref(), Some(content));
        }
        let whole = std::fs::read(&path).expect("there");
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).expect("written");
            assert_eq!(read_hashed(&path), None, "{len} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).expect("written");
            assert_eq!(read_hashed(&path), None, "byte {at}");
        }
        // Nothing is left beside it, and nothing of what could not be written.
        assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 1);
        assert!(write(&folder, b"a file where a folder is").is_err());
        assert_eq!(
            std::fs::read_dir(folder.parent().expect("one"))
                .expect("there")
                .flatten()
                .filter(|entry| entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("eyas-kept-{}", std::process::id())))
                .count(),
            1
        );
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
