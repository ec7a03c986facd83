//! How the hub is used: where it is, who asks, where files are kept. The names are those of Python's `huggingface_hub`, so
//! that the same settings lead both to the same files.
//!
//! This crate reads no environment: [`HubOptions::from_variables`] is given whatever looks variables up.

use super::error::HubError;
use super::retry::Patience;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";
/// Most bytes of a file that holds a token; those of the hub have about 40.
const MAX_TOKEN_BYTES: u64 = 4096;

/// What is told while the hub is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubEvent {
    /// So much of a file is in the cache now.
    Downloaded {
        /// Its path in the dataset.
        file: String,
        /// Bytes there are.
        num_bytes: u64,
        /// Bytes there will be.
        total_bytes: u64,
    },
    /// Nothing moves for a while, and then it is tried again.
    Waiting {
        /// For how long; zero if nobody knows.
        wait: Duration,
        /// Why.
        reason: String,
    },
}

/// Hears what happens; called from whatever thread reads.
pub type HubListener = Arc<dyn Fn(&HubEvent) + Send + Sync>;

/// A text that is not for anybody's eyes: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How the hub is used.
#[derive(Clone)]
pub struct HubOptions {
    /// Where the hub is: `https://host`, with a path before that of the hub if need be.
    pub endpoint: String,
    /// Who asks. It is sent to the endpoint's host alone.
    pub token: Option<Secret>,
    /// A file with a token, which counts where `token` is absent; it need not exist.
    pub token_file: Option<PathBuf>,
    /// Where files are kept, in the layout that `huggingface_hub` uses. Without it nothing can be kept.
    pub cache_dir: Option<PathBuf>,
    /// Nothing but the cache is used.
    pub offline: bool,
    /// What this program calls itself.
    pub user_agent: String,
    /// Files that the cache does not have are read where they are, and not kept.
    pub streaming: bool,
    /// A proxy, `http://[USER:PASSWORD@]HOST:PORT`.
    pub proxy: Option<Secret>,
    /// Hosts that the proxy is not used for, as in the variable `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// Certificates in PEM that are trusted in place of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// How long to wait, and how often to try again.
    pub patience: Patience,
    /// Hears of progress and of waits.
    pub listener: Option<HubListener>,
}

impl Default for HubOptions {
    /// The public hub, without a token and without a cache.
    fn default() -> Self {
        HubOptions {
            endpoint: ENDPOINT.to_owned(),
            token: None,
            token_file: None,
            cache_dir: None,
            offline: false,
            user_agent: concat!("eyas/", env!("CARGO_PKG_VERSION")).to_owned(),
            streaming: false,
            proxy: None,
            no_proxy: None,
            ca_file: None,
            patience: Patience::default(),
            listener: None,
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token)
            .field("token_file", &self.token_file)
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .field("streaming", &self.streaming)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// The options that the variables ask for, by the rules of `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`, `XDG_CACHE_HOME`, `HF_HUB_OFFLINE`,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`; and those that every program of the net knows, for proxies and certificates.
    /// An empty variable is an absent one.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| {
            names.iter().find_map(|name| get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()))
        };
        let is_true = |names: &[&str]| {
            first(names).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()))
        };
        let home = first(&["HOME", "USERPROFILE"]);
        let path = |names: &[&str]| first(names).map(|text| expand(&text, home.as_deref()));
        let hf_home = path(&["HF_HOME"])
            .or_else(|| path(&["XDG_CACHE_HOME"]).map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| Path::new(home).join(".cache/huggingface")));
        let implicit = !is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]);
        let token_file = path(&["HF_TOKEN_PATH"]).or_else(|| hf_home.as_ref().map(|home| home.join("token")));
        let mut patience = Patience::default();
        if let Some(seconds) = first(&["HF_HUB_DOWNLOAD_TIMEOUT"]).and_then(|v| v.parse::<u32>().ok()) {
            patience.silence = Duration::from_secs(seconds.max(1).into());
        }
        let endpoint = first(&["HF_ENDPOINT"]).unwrap_or_else(|| ENDPOINT.to_owned());
        let proxy = if endpoint.starts_with("http://") {
            first(&["http_proxy", "all_proxy", "ALL_PROXY"])
        } else {
            first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
        };
        HubOptions {
            token: first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).filter(|_| implicit).map(Secret),
            token_file: token_file.filter(|_| implicit),
            cache_dir: path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
                .or_else(|| hf_home.map(|home| home.join("hub"))),
            offline: is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"]),
            proxy: proxy.map(Secret),
            no_proxy: first(&["no_proxy", "NO_PROXY"]),
            ca_file: path(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]),
            endpoint,
            patience,
            ..HubOptions::default()
        }
    }

    /// The token to send, from the option or the file.
    pub(super) fn find_token(&self) -> Result<Option<Secret>, HubError> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => match read_small(path) {
                Ok(text) => Secret(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(HubError::cache("read the token in", path)(error)),
            },
            (None, None) => return Ok(None),
        };
        let text = token.0.trim();
        if text.is_empty() {
            return Ok(None);
        }
        // What cannot stand in a header could begin another one.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            let what = "it holds blanks or characters beyond ASCII; expected a text like hf_...".to_owned();
            return Err(HubError::Option { name: "the hub's token", what });
        }
        Ok(Some(Secret(text.to_owned())))
    }

    /// Tells whoever listens.
    pub(super) fn tell(&self, event: &HubEvent) {
        if let Some(listener) = &self.listener {
            listener(event);
        }
    }
}

/// A leading `~` is the home folder.
fn expand(text: &str, home: Option<&str>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    }
}

/// A file that must be small.
fn read_small(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        HubOptions::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| options(variables).cache_dir;
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(cache(&[]), None);
        assert_eq!(cache(&[("HOME", "/h")]), path("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), path("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/f")]), path("/h/f/hub"));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), path("/c"));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", " ")]), path("/f/hub"));
    }

    #[test]
    fn tokens_come_from_the_variable_then_the_file_and_are_never_shown() {
        let dir = tempfile::tempdir().expect("folder");
        let home = dir.path().to_str().expect("UTF-8");
        let token = |variables: &[(&str, &str)]| {
            options(variables).find_token().expect("token").map(|t| t.reveal().to_owned())
        };
        assert_eq!(token(&[("HF_HOME", home)]), None);
        std::fs::write(dir.path().join("token"), "hf_file\n").expect("token");
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "hf_var")]).as_deref(), Some("hf_var"));
        let off = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "hf_var"), off]), None);
        let shown = format!("{:?}", options(&[("HF_TOKEN", "hf_var"), ("https_proxy", "http://u:pass@p:1")]));
        assert!(!shown.contains("hf_var") && !shown.contains("pass"), "{shown}");
        let error =
            options(&[("HF_TOKEN", "hf_a\r\nX: hf_b")]).find_token().expect_err("two lines").to_string();
        assert!(!error.contains("hf_a") && !error.contains("hf_b"), "{error}");
    }

    #[test]
    fn switches() {
        assert!(!options(&[]).offline);
        assert!(options(&[("HF_HUB_OFFLINE", "1")]).offline);
        assert!(options(&[("HF_HUB_OFFLINE", "true")]).offline);
        assert!(!options(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert_eq!(
            options(&[("HF_ENDPOINT", "https://mirror.example/")]).endpoint,
            "https://mirror.example/"
        );
        assert_eq!(options(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).patience.silence, Duration::from_secs(7));
    }
}
