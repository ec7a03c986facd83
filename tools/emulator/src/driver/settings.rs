//! What the card is like: read from the environment once.

use crate::streams::Schedule;
use std::sync::OnceLock;

/// The card's properties.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Compute capability.
    pub(crate) capability: (i32, i32),
    /// The driver's version of CUDA.
    pub(crate) version: (i32, i32),
    /// Streaming multiprocessors.
    pub(crate) num_processors: i32,
    /// Bytes of memory.
    pub(crate) memory: usize,
    pub(crate) schedule: Schedule,
    /// What is wrong with the environment.
    pub(crate) problem: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            capability: (9, 0),
            version: (13, 0),
            num_processors: 4,
            // Not more: what measures a card takes larger products on a larger one, which last minutes here.
            memory: 1 << 30,
            schedule: Schedule::Eager,
            problem: None,
        }
    }
}

/// The settings of this process.
pub(crate) fn get() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        Settings::read(|name| std::env::var(name).ok())
            .unwrap_or_else(|problem| Settings { problem: Some(problem), ..Settings::default() })
    })
}

impl Settings {
    /// Settings from what variables are set to.
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut settings = Settings::default();
        let wrong = |name: &str, text: &str, want: &str| format!("{name} is {text:?}: it should be {want}");
        let numbers = [
            ("CUDA_EMULATOR_CAPABILITY", &mut settings.capability),
            ("CUDA_EMULATOR_DRIVER", &mut settings.version),
        ];
        for (name, numbers) in numbers {
            let Some(text) = variable(name) else { continue };
            let parts = text.split_once('.').and_then(|(major, minor)| {
                Some((major.parse::<u8>().ok()?.into(), minor.parse::<u8>().ok()?.into()))
            });
            *numbers = parts.ok_or_else(|| wrong(name, &text, "two numbers, as 9.0"))?;
        }
        if let Some(text) = variable("CUDA_EMULATOR_PROCESSORS") {
            let number = text.parse().ok().filter(|&number: &i32| number > 0);
            settings.num_processors =
                number.ok_or_else(|| wrong("CUDA_EMULATOR_PROCESSORS", &text, "a number above 0"))?;
        }
        if let Some(text) = variable("CUDA_EMULATOR_MEMORY") {
            settings.memory =
                text.parse().map_err(|_| wrong("CUDA_EMULATOR_MEMORY", &text, "a number of bytes"))?;
        }
        if let Some(text) = variable("CUDA_EMULATOR_SCHEDULE") {
            let schedule = Schedule::parse(&text);
            let want = "eager, late or random:SEED";
            settings.schedule = schedule.ok_or_else(|| wrong("CUDA_EMULATOR_SCHEDULE", &text, want))?;
        }
        Ok(settings)
    }

    /// Bytes of shared memory that a block may ask for, as NVIDIA's cards of this capability have them.
    pub(crate) fn max_shared(&self) -> i32 {
        match self.capability {
            (8, 0 | 7) => 163 << 10,
            (8, _) | (12, _) => 99 << 10,
            _ => 227 << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_and_checked() {
        let read = |name: &'static str, text: &'static str| {
            Settings::read(|asked| (asked == name).then(|| text.to_string()))
        };
        let settings = read("CUDA_EMULATOR_CAPABILITY", "8.0").expect("right");
        assert_eq!((settings.capability, settings.max_shared()), ((8, 0), 163 << 10));
        assert_eq!(read("CUDA_EMULATOR_DRIVER", "12.4").expect("right").version, (12, 4));
        let settings = read("CUDA_EMULATOR_SCHEDULE", "random:7").expect("right");
        assert_eq!(settings.schedule, Schedule::Random(7));
        for (name, text) in [
            ("CUDA_EMULATOR_CAPABILITY", "9"),
            ("CUDA_EMULATOR_DRIVER", "12.x"),
            ("CUDA_EMULATOR_PROCESSORS", "0"),
            ("CUDA_EMULATOR_MEMORY", "1 GiB"),
            ("CUDA_EMULATOR_SCHEDULE", "random"),
        ] {
            let problem = read(name, text).expect_err("wrong");
            assert!(problem.contains(name) && problem.contains(text), "{problem}");
        }
    }
}
