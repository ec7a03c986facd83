//! Finding NVIDIA's libraries at run time: the driver, NVRTC and cuBLASLt.
//!
//! eyas is built without CUDA and links to none of it. A library is opened here by its path and kept open. NVRTC and
//! cuBLASLt come in versions that only a driver of theirs or a newer one can serve: of the versions that a machine has, those
//! are passed over that its driver is too old for.

use super::bindings::{cublaslt, nvrtc};
use super::{CudaError, Version};
use cudarc::driver::sys as driver;
use libloading::Library;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A library, and the file names it is known by, newest first, each with the least major version of CUDA that the driver
/// must have.
struct Wanted {
    what: &'static str,
    names: &'static [(&'static str, u32)],
    /// Whether what the system knows by name comes before folders, which a person may have pointed to.
    by_name_first: bool,
    /// How the names of files begin that it opens by name itself, and that lie beside it.
    companion: Option<&'static str>,
    /// Takes the functions that are called from the library; what it lacks is the error.
    load: fn(&Library) -> Result<(), &'static str>,
    hint: fn(Version) -> String,
}

const DRIVER: Wanted = Wanted {
    what: "the NVIDIA driver",
    names: &[("libcuda.so", 0), ("libcuda.so.1", 0)],
    // As cudarc asks for it when its functions are called.
    by_name_first: true,
    companion: None,
    load: |_| Ok(()),
    hint: |_| {
        "it comes with the graphics driver; without one this machine trains on the CPU: --device cpu".into()
    },
};
const NVRTC: Wanted = Wanted {
    what: "NVRTC (it compiles the kernels)",
    names: &[("libnvrtc.so.13", 13), ("libnvrtc.so.12", 12)],
    by_name_first: false,
    companion: Some("libnvrtc-builtins.so"),
    load: nvrtc::load,
    hint: |driver| hint("nvidia-cuda-nvrtc", driver),
};
const CUBLASLT: Wanted = Wanted {
    what: "cuBLASLt (it multiplies matrices)",
    names: &[("libcublasLt.so.13", 13), ("libcublasLt.so.12", 12)],
    by_name_first: false,
    companion: None,
    load: cublaslt::load,
    hint: |driver| hint("nvidia-cublas", driver),
};

/// Where to get a library that this driver can serve; `package` is its name for CUDA 13.
fn hint(package: &str, driver: Version) -> String {
    let (suffix, major) = if driver.major < 13 { ("-cu12", 12) } else { ("", 13) };
    format!("it comes with the CUDA toolkit, version {major}, or with `pip install {package}{suffix}`")
}

/// Where libraries are looked for beside the places that the system's loader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibraryPaths {
    /// Folders that hold libraries, toolkits or Python environments, the first first.
    pub roots: Vec<PathBuf>,
}

impl LibraryPaths {
    /// The usual places, after `first`: toolkits under /usr/local, the environments of the Python interpreters on `path`, the
    /// content of PATH, and where pip installs outside of environments.
    pub fn usual(first: Vec<PathBuf>, path: Option<&std::ffi::OsStr>) -> Self {
        let mut roots = first;
        let toolkits = ["/usr/local/cuda", "/opt/cuda", "/usr/local/nvidia", "/usr/lib/wsl"];
        roots.extend(toolkits.map(PathBuf::from));
        let folders = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
        // A Python environment is the parent of the bin folder that its interpreter is in.
        let has_python = |folder: &&PathBuf| folder.join("python3").exists();
        let parents = folders.iter().filter(has_python).filter_map(|bin| bin.parent());
        // The root folder would be every path there is.
        roots.extend(parents.filter(|root| root.file_name().is_some()).map(Path::to_path_buf));
        let own = std::env::home_dir().map(|home| home.join(".local"));
        roots.extend(own.into_iter().chain([PathBuf::from("/usr/local")]));
        let mut seen = std::collections::HashSet::new();
        roots.retain(|root| seen.insert(root.clone()));
        LibraryPaths { roots }
    }

    /// Every folder under the roots that may hold libraries.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for root in &self.roots {
            folders.push(root.clone());
            folders.extend(
                ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"]
                    .map(|lib| root.join(lib)),
            );
            let packages = children(&root.join("lib"), "python3")
                .into_iter()
                .flat_map(|python| [python.join("site-packages"), python.join("dist-packages")])
                .chain([root.join("site-packages"), root.clone()]);
            for package in packages {
                folders
                    .extend(children(&package.join("nvidia"), "").into_iter().map(|part| part.join("lib")));
            }
        }
        folders.retain(|folder| folder.is_dir());
        folders
    }
}

/// The folders in `folder` whose names begin with `start`, in order.
fn children(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Opens the driver.
pub(crate) fn open_driver(paths: &LibraryPaths) -> Result<(), CudaError> {
    open(&DRIVER, paths, Version::default())
}

/// The version of CUDA that the driver has, once it was opened.
pub(crate) fn driver_version() -> Result<Version, CudaError> {
    let mut version = 0;
    // SAFETY: the driver was opened; the number is written.
    super::context::check("cuDriverGetVersion", unsafe { driver::cuDriverGetVersion(&mut version) })?;
    let version = version.unsigned_abs();
    Ok(Version { major: version / 1000, minor: version % 1000 / 10 })
}

/// Opens the compiler, in a version that `driver` can serve.
pub(crate) fn open_nvrtc(paths: &LibraryPaths, driver: Version) -> Result<(), CudaError> {
    open(&NVRTC, paths, driver)
}

/// Opens the library of matrix products, in a version that `driver` can serve.
pub(crate) fn open_cublaslt(paths: &LibraryPaths, driver: Version) -> Result<(), CudaError> {
    open(&CUBLASLT, paths, driver)
}

/// Opens a library and never closes it; at once if it is open already.
fn open(wanted: &Wanted, paths: &LibraryPaths, driver: Version) -> Result<(), CudaError> {
    static OPENED: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut opened = OPENED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if opened.contains(&wanted.what) {
        return Ok(());
    }
    let served = || wanted.names.iter().filter(|(_, least)| *least <= driver.major).map(|(name, _)| *name);
    let folders = paths.folders();
    let by_path = folders.iter().flat_map(|folder| served().map(|name| folder.join(name)));
    let by_path: Vec<_> = by_path.filter(|path| path.exists()).collect();
    let by_name: Vec<_> = served().map(PathBuf::from).collect();
    let candidates = if wanted.by_name_first { [by_name, by_path] } else { [by_path, by_name] };
    let mut problems = Vec::new();
    for candidate in candidates.into_iter().flatten() {
        if let (Some(start), Some(folder)) = (wanted.companion, candidate.parent()) {
            children(folder, start).iter().for_each(|companion| keep_open(companion));
        }
        // SAFETY: initializers of NVIDIA's libraries have no requirement on the program that loads them.
        match unsafe { Library::new(&candidate) } {
            Ok(library) => match (wanted.load)(&library) {
                Ok(()) => {
                    std::mem::forget(library);
                    opened.push(wanted.what);
                    return Ok(());
                }
                Err(function) => problems.push(format!("{} has no {function}", candidate.display())),
            },
            Err(error) => {
                let name = candidate.display().to_string();
                // The loader's own words are the source.
                let words = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                if !is_absence(&words, &name) {
                    problems.push(if words.contains(&name) { words } else { format!("{name}: {words}") });
                }
            }
        }
    }
    for (name, least) in wanted.names.iter().filter(|(_, least)| *least > driver.major) {
        let too_new = folders.iter().map(|folder| folder.join(name)).filter(|path| path.exists());
        problems.extend(too_new.map(|path| {
            format!("{} wants a driver for CUDA {least}, this one has {driver}", path.display())
        }));
    }
    let mut looked = vec!["the system's library path".to_string()];
    looked.extend(paths.roots.iter().map(|root| root.display().to_string()));
    let (what, names, hint) = (wanted.what, served().collect(), (wanted.hint)(driver));
    Err(CudaError::Library { what, names, looked, problems, hint })
}

/// Whether the loader's words say that it knows no library of this name, and not that one of those it needs is missing: as
/// glibc says it, musl, and macOS.
fn is_absence(words: &str, name: &str) -> bool {
    words.starts_with(&format!("{name}: cannot open shared object file: No such file"))
        || words.starts_with(&format!("Error loading shared library {name}: No such file"))
        || words.contains("(no such file)")
}

/// Opens a library for others to find; one that does not load is missed by them, who say so.
fn keep_open(path: &Path) {
    // SAFETY: as in `open`.
    if let Ok(library) = unsafe { Library::new(path) } {
        std::mem::forget(library);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_environments_and_toolkits_are_searched() {
        let root = std::env::temp_dir().join(format!("eyas-library-{}", std::process::id()));
        let folders = ["lib/python3.12/site-packages/nvidia/cu13/lib", "lib64", "bin"];
        folders.iter().for_each(|folder| std::fs::create_dir_all(root.join(folder)).expect("a folder"));
        std::fs::write(root.join("bin/python3"), "").expect("a file");
        let paths = LibraryPaths::usual(Vec::new(), Some(root.join("bin").as_os_str()));
        let found = paths.folders();
        assert!(found.contains(&root.join(folders[0])) && found.contains(&root.join("lib64")), "{found:?}");
        // A file that is no library is passed over, and named if nothing else is found.
        for name in ["libeyas-none.so.13", "libeyas-none.so.12"] {
            std::fs::write(root.join("lib64").join(name), "not a library").expect("a file");
        }
        let none = Wanted {
            what: "nothing",
            names: &[("libeyas-none.so.13", 13), ("libeyas-none.so.12", 12)],
            by_name_first: false,
            companion: None,
            load: |_| Ok(()),
            hint: |driver| hint("eyas-none", driver),
        };
        let refused = |driver| open(&none, &paths, driver).expect_err("it is no library").to_string();
        let (new, old) = (refused(Version { major: 13, minor: 1 }), refused(Version { major: 12, minor: 4 }));
        let path = |name| root.join("lib64").join(name).display().to_string();
        assert!(new.contains("no libeyas-none.so.13 or libeyas-none.so.12 in"), "{new}");
        assert!(
            new.contains(&path("libeyas-none.so.13: ")) && new.contains("pip install eyas-none`"),
            "{new}"
        );
        // What the driver is too old for is not opened.
        assert!(old.contains("no libeyas-none.so.12 in"), "{old}");
        assert!(old.contains(&path("libeyas-none.so.12: ")) && old.contains("eyas-none-cu12"), "{old}");
        let too_new = path("libeyas-none.so.13") + " wants a driver for CUDA 13, this one has 12.4";
        assert!(old.contains(&too_new), "{old}");
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_library_that_is_nowhere_is_told_from_one_that_lacks_another() {
        let absence = "libcuda.so.1: cannot open shared object file: No such file or directory";
        assert!(is_absence(absence, "libcuda.so.1") && !is_absence(absence, "libnvrtc.so.13"));
        assert!(!is_absence("libcuda.so.1: file too short", "libcuda.so.1"));
    }

    #[test]
    fn a_library_without_a_function_is_not_taken() {
        // The C library, which every program on Linux has.
        let libc = Wanted {
            what: "the C library",
            names: &[("libc.so.6", 0)],
            by_name_first: false,
            companion: None,
            load: nvrtc::load,
            hint: |_| "none".into(),
        };
        let refused = open(&libc, &LibraryPaths::default(), Version::default()).expect_err("it has none");
        assert!(refused.to_string().contains("libc.so.6 has no nvrtc"), "{refused}");
    }
}
