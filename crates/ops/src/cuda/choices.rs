//! What was found to be fastest on a card, kept on disk, so that another run takes the same and ends with the same bits.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

/// Choices of earlier runs, by product, in a file of this card and library.
#[derive(Default)]
pub(super) struct Choices {
    path: Option<PathBuf>,
    pub(super) by_product: HashMap<String, [u64; 8]>,
}

impl Choices {
    /// Reads the file, if there is one; a line that is not understood is one choice less.
    pub(super) fn load(path: Option<PathBuf>) -> Self {
        let text = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let line = |line: &str| {
            let (key, words) = line.split_once('\t')?;
            let words = words
                .split(' ')
                .map(|word| u64::from_str_radix(word, 16).ok())
                .collect::<Option<Vec<_>>>()?;
            Some((key.to_string(), words.try_into().ok()?))
        };
        Choices { path, by_product: text.lines().filter_map(line).collect() }
    }

    /// Adds a choice, and writes all, sorted. What another process has written since stays, its choice of the same too, which is
    /// the one returned: who goes on with this run then reads what it took.
    pub(super) fn keep(&mut self, key: String, algorithm: [u64; 8]) -> [u64; 8] {
        let Some(path) = &self.path else {
            self.by_product.insert(key, algorithm);
            return algorithm;
        };
        let others = Choices::load(Some(path.clone())).by_product;
        let kept = *others.get(&key).unwrap_or(&algorithm);
        others.into_iter().for_each(|(key, words)| {
            self.by_product.entry(key).or_insert(words);
        });
        self.by_product.insert(key, kept);
        let mut lines: Vec<_> = self.by_product.iter().collect();
        lines.sort();
        let mut text = String::new();
        for (key, words) in lines {
            let words: Vec<_> = words.iter().map(|word| format!("{word:x}")).collect();
            let _ = writeln!(text, "{key}\t{}", words.join(" "));
        }
        // A folder that cannot be written costs the next start its timing; that may choose another, and so other bits.
        let _ = super::kept::write(path, text.as_bytes());
        kept
    }
}

/// A place where fused products or separate steps do the same: what it is, and its sizes.
pub(crate) type Place = (&'static str, usize, usize, usize);

/// Which of several forms that do the same is the fastest one, by place.
pub(super) struct Forms {
    by_place: Mutex<HashMap<Place, usize>>,
    /// A hash of our own kernels, which some forms are.
    kernels: String,
}

impl Forms {
    pub(super) fn new() -> Self {
        let mut hasher = blake3::Hasher::new();
        super::SOURCES
            .iter()
            .flat_map(|source| source.files)
            .for_each(|file| _ = hasher.update(file.as_bytes()));
        Forms { by_place: Mutex::default(), kernels: hasher.finalize().to_hex()[..8].to_string() }
    }

    /// Which of `count` forms a place takes: what an earlier run found, or what `measure` says of the seconds of each, `None`
    /// if it is not to be had. A later one must be clearly faster than those before it, so that noise does not decide.
    /// `kind` is what else the seconds depend on. Choices are not locked while forms are run, which choose as well.
    pub(super) fn fastest(
        &self,
        choices: &Mutex<Choices>,
        place: Place,
        kind: &str,
        count: usize,
        mut measure: impl FnMut(usize) -> Option<f64>,
    ) -> usize {
        let mut forms = self.by_place.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *forms.entry(place).or_insert_with(|| {
            let key = format!("{place:?} of {count} {kind} kernels {}", self.kernels);
            let choices = || choices.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let kept = choices().by_product.get(&key).map(|words| words[0] as usize);
            kept.filter(|&form| form < count).unwrap_or_else(|| {
                let (mut best, mut least) = (0, f64::INFINITY);
                for form in 0..count {
                    match measure(form) {
                        Some(seconds) if seconds < 0.97 * least => (best, least) = (form, seconds),
                        _ => {}
                    }
                }
                let [form, ..] = choices().keep(key, [best as u64, 0, 0, 0, 0, 0, 0, 0]);
                if (form as usize) < count { form as usize } else { best }
            })
        })
    }
}
