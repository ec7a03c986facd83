//! `emulate`: runs a program on the emulated card.
//!
//! The trick: the system's loader knows a library by its file, not by its name, so three links to one file are one library, and
//! what plays the driver and cuBLASLt share their state.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
Runs a program on an emulated CUDA card.

Usage: emulate [OPTIONS] -- COMMAND [ARGUMENTS]...

Options:
  --nvrtc FOLDER      where the real NVRTC lies, which compiles kernels; else CUDA_EMULATOR_NVRTC, and the usual places
  --schedule S        when queued work runs: eager (at once, the default), late (when it is waited for), or random:SEED
  --capability M.N    the card's compute capability, 9.0 unless given
  --driver M.N        the version of CUDA that its driver has, 13.0 unless given
  --help              this text

The environment's CUDA_EMULATOR_PROCESSORS and CUDA_EMULATOR_MEMORY (bytes) change the card's size.
The exit status is the command's; 2 where it could not be run.
";

const LIBRARY: &str = "libcuda_emulator.so";

/// The names that the library is opened by: cudarc asks for the driver without a number first.
const NAMES: [&str; 6] = [
    "libcuda.so.1",
    "libcuda.so",
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libcublasLt.so.13",
    "libcublasLt.so.12",
];

/// What the command line says.
#[derive(Default)]
struct Options {
    nvrtc: Option<PathBuf>,
    schedule: Option<OsString>,
    capability: Option<OsString>,
    driver: Option<OsString>,
    command: Vec<OsString>,
    wants_help: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line")]
fn main() -> ExitCode {
    match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) if options.wants_help => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        options => options.and_then(run).unwrap_or_else(|problem| {
            eprintln!("emulate: {problem}");
            ExitCode::from(2)
        }),
    }
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Options::default();
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| format!("{} wants a value", argument.display()));
            match argument.to_str() {
                Some("--nvrtc") => options.nvrtc = Some(value()?.into()),
                Some("--schedule") => options.schedule = Some(value()?),
                Some("--capability") => options.capability = Some(value()?),
                Some("--driver") => options.driver = Some(value()?),
                Some("--help" | "-h") => options.wants_help = true,
                Some("--") => {
                    options.command = arguments.collect();
                    break;
                }
                _ => return Err(format!("{} is no option; see --help", argument.display())),
            }
        }
        if options.command.is_empty() && !options.wants_help {
            return Err("there is no command; see --help".to_string());
        }
        Ok(options)
    }
}

/// Runs the command; its exit status.
fn run(options: Options) -> Result<ExitCode, String> {
    let nvrtc = find_nvrtc(options.nvrtc)?;
    let library = own_library()?;
    let folder = Links::new(&library)?;
    let mut path = folder.0.clone().into_os_string();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    let (program, arguments) = options.command.split_first().ok_or("there is no command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    command.env("EYAS_CUDA_PATH", &folder.0).env("LD_LIBRARY_PATH", path);
    command.env("CUDA_EMULATOR_NVRTC", nvrtc);
    let given = [
        ("CUDA_EMULATOR_SCHEDULE", options.schedule),
        ("CUDA_EMULATOR_CAPABILITY", options.capability),
        ("CUDA_EMULATOR_DRIVER", options.driver),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let status = command.status().map_err(|error| format!("{}: {error}", program.display()))?;
    // As shells say that a signal ended a program.
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The library, which is built beside this program.
fn own_library() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let folder = own.parent().unwrap_or(Path::new("."));
    let candidates = [folder.join(LIBRARY), folder.join("deps").join(LIBRARY)];
    let found = candidates.iter().find(|path| path.exists()).cloned();
    found.ok_or_else(|| {
        format!("{} is missing: build it with `cargo build -p cuda-emulator`", candidates[0].display())
    })
}

/// The folder of the real NVRTC.
fn find_nvrtc(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let wanted = given.or_else(|| std::env::var_os("CUDA_EMULATOR_NVRTC").map(PathBuf::from));
    if let Some(folder) = wanted {
        let problem = || format!("{} has no libnvrtc.so with its libnvrtc-builtins.so", folder.display());
        return if has_nvrtc(&folder) { Ok(folder) } else { Err(problem()) };
    }
    usual_folders().into_iter().find(|folder| has_nvrtc(folder)).ok_or_else(|| {
        "there is no NVRTC, which compiles kernels and needs no card: \
         get it with `pip install nvidia-cuda-nvrtc`, or name its folder with --nvrtc"
            .to_string()
    })
}

/// Where toolkits and the Python environments on PATH keep it.
fn usual_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for bin in std::env::split_paths(&path).filter(|bin| bin.join("python3").exists()) {
        let Some(root) = bin.parent() else { continue };
        for python in children(&root.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                let nvidia = python.join(packages).join("nvidia");
                folders.extend([nvidia.join("cu13/lib"), nvidia.join("cuda_nvrtc/lib")]);
            }
        }
    }
    folders.push("/usr/local/cuda/lib64".into());
    folders
}

fn has_nvrtc(folder: &Path) -> bool {
    ["libnvrtc.so", "libnvrtc-builtins.so"].iter().all(|start| !children(folder, start).is_empty())
}

/// What in `folder` has a name that begins with `start`.
fn children(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// A folder with the links, until it is dropped.
struct Links(PathBuf);

impl Links {
    fn new(library: &Path) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("cuda-emulator-{}", std::process::id()));
        let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
        // What a process of the same number has left that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).map_err(problem)?;
        let links = Links(folder.clone());
        // A copy, because a build in the meantime would pull the library from under the program.
        std::fs::copy(library, folder.join(LIBRARY)).map_err(problem)?;
        for name in NAMES {
            std::os::unix::fs::symlink(LIBRARY, folder.join(name)).map_err(problem)?;
        }
        Ok(links)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let parse = |line: &str| Options::parse(line.split(' ').map(OsString::from));
        let options =
            parse("--schedule late --capability 8.0 --driver 12.4 -- eyas train --help").expect("right");
        assert_eq!((options.schedule, options.capability), (Some("late".into()), Some("8.0".into())));
        assert_eq!(options.driver, Some("12.4".into()));
        assert_eq!(options.command, ["eyas", "train", "--help"]);
        assert!(parse("--help").expect("right").wants_help);
        for line in ["--schedule", "--", "eyas train", "--schedule late"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
