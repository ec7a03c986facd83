//! The Hugging Face hub as the environment describes it, and what is said while it is waited for.

use crate::format::bytes;
use crate::output::note;
use eyas_data::{HubEvent, HubListener, HubOptions};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between lines about one download.
const EVERY: Duration = Duration::from_secs(5);

/// How the hub is used: what Python's `huggingface_hub` takes from the environment.
pub(crate) fn options() -> HubOptions {
    let listener: HubListener = Arc::new(teller());
    let options = HubOptions::from_variables(|name| std::env::var(name).ok());
    HubOptions { listener: Some(listener), ..options }
}

/// Says when a file is there, how far a long download is, and why nothing moves.
fn teller() -> impl Fn(&HubEvent) + Send + Sync {
    let said = Mutex::new(Instant::now());
    move |event| match event {
        HubEvent::Downloaded { file, num_bytes, total_bytes } => {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            let (is_done, done, all) = (num_bytes >= total_bytes, bytes(*num_bytes), bytes(*total_bytes));
            if is_done {
                note(format_args!("downloaded {file}, {all}"));
            } else if said.elapsed() >= EVERY {
                note(format_args!("downloading {file}: {done} of {all}"));
                *said = Instant::now();
            }
        }
        HubEvent::Waiting { wait, reason } => {
            let seconds = wait.as_secs_f64().max(1.0);
            let time = if wait.is_zero() { String::new() } else { format!(" {seconds:.0} s") };
            note(format_args!("waiting{time} for the hub: {reason}"));
        }
        _ => {}
    }
}
