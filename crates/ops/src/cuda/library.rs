//! Finding NVIDIA's libraries at run time: the driver, NVRTC and cuBLASLt.
//!
//! eyas is built without CUDA and links to none of it. The trick: a library is opened here by its path and kept open, and
//! the bindings, which ask the system's loader by name alone, are then given the one that is loaded already.

use super::CudaError;
use libloading::Library;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A library, and the file names it is known by, newest first.
struct Wanted {
    what: &'static str,
    names: &'static [&'static str],
    /// How the names of files begin that it opens by name itself, and that lie beside it.
    companion: Option<&'static str>,
    hint: &'static str,
}

const DRIVER: Wanted = Wanted {
    what: "the NVIDIA driver",
    names: &["libcuda.so.1", "libcuda.so"],
    companion: None,
    hint: "it comes with the graphics driver; without one this machine trains on the CPU: --device cpu",
};
const NVRTC: Wanted = Wanted {
    what: "NVRTC, which compiles the kernels",
    names: &["libnvrtc.so.13", "libnvrtc.so.12"],
    companion: Some("libnvrtc-builtins.so"),
    hint: "it comes with the CUDA toolkit, or with `pip install nvidia-cuda-nvrtc`",
};
const CUBLASLT: Wanted = Wanted {
    what: "cuBLASLt, which multiplies matrices",
    names: &["libcublasLt.so.13", "libcublasLt.so.12"],
    companion: None,
    hint: "it comes with the CUDA toolkit, or with `pip install nvidia-cublas`",
};

/// Where libraries are looked for beside the places that the system's loader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibraryPaths {
    /// Folders that hold libraries, toolkits or Python environments, the first first.
    pub roots: Vec<PathBuf>,
}

impl LibraryPaths {
    /// The usual places, after `first`: toolkits under /usr/local, and the environments of the Python interpreters on
    /// `path`, the content of PATH.
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
    open(&DRIVER, paths)
}

/// Opens the compiler.
pub(crate) fn open_nvrtc(paths: &LibraryPaths) -> Result<(), CudaError> {
    open(&NVRTC, paths)
}

/// Opens the library of matrix products.
pub(crate) fn open_cublaslt(paths: &LibraryPaths) -> Result<(), CudaError> {
    open(&CUBLASLT, paths)
}

/// Opens a library and never closes it; at once if it is open already.
fn open(wanted: &'static Wanted, paths: &LibraryPaths) -> Result<(), CudaError> {
    static OPENED: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut opened = OPENED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if opened.contains(&wanted.what) {
        return Ok(());
    }
    let by_path = |folder: &PathBuf| wanted.names.iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let folders = paths.folders();
    // Paths before names: what the user pointed to wins over what the system has.
    let candidates = folders.iter().flat_map(by_path).filter(|path| path.exists());
    let candidates = candidates.chain(wanted.names.iter().map(PathBuf::from));
    let mut problems = Vec::new();
    for candidate in candidates {
        if let (Some(start), Some(folder)) = (wanted.companion, candidate.parent()) {
            children(folder, start).iter().for_each(|companion| keep_open(companion));
        }
        // SAFETY: initializers of NVIDIA's libraries have no requirement on the program that loads them.
        match unsafe { Library::new(&candidate) } {
            Ok(library) => {
                std::mem::forget(library);
                opened.push(wanted.what);
                return Ok(());
            }
            Err(error) if candidate.is_absolute() => {
                problems.push(format!("{}: {error}", candidate.display()));
            }
            Err(_) => {}
        }
    }
    let mut looked = vec!["the system's library path".to_string()];
    looked.extend(paths.roots.iter().map(|root| root.display().to_string()));
    Err(CudaError::Library { what: wanted.what, names: wanted.names, looked, problems, hint: wanted.hint })
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
        let fake = root.join("lib64/libeyas-none.so");
        std::fs::write(&fake, "not a library").expect("a file");
        let none = Box::leak(Box::new(Wanted {
            what: "nothing",
            names: &["libeyas-none.so"],
            companion: None,
            hint: "none",
        }));
        let error = open(none, &paths).expect_err("it is no library").to_string();
        assert!(error.contains("libeyas-none.so") && error.contains(&root.display().to_string()), "{error}");
        std::fs::remove_dir_all(root).expect("removed");
    }
}
