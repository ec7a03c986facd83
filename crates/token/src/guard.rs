//! Calls into the `tokenizers` library, which may panic on files that nobody wrote in earnest.
//!
//! What is known to panic is refused before; this is for what is not known. A panic becomes an error and prints
//! nothing: the process's hook is wrapped, once, by one that is silent on threads inside a guarded call.

use crate::error::Error;
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`, which touches nothing that outlives it but through what it returns.
///
/// # Errors
/// [`Error::Library`] if it fails or panics.
pub(crate) fn guarded<T>(
    doing: &'static str,
    call: impl FnOnce() -> Result<T, Box<dyn std::error::Error + Send + Sync>>,
) -> Result<T, Error> {
    static WRAP_HOOK: Once = Once::new();
    WRAP_HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                hook(info);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    IS_GUARDED.set(was_guarded);
    let problem = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("the tokenizers library panicked: {}", message(&*panic)),
    };
    Err(Error::Library { doing, problem })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        assert_eq!(guarded("add", || Ok(1 + 1)).expect("no error"), 2);
        let failed = guarded::<()>("fail", || Err("reason".into())).expect_err("failed");
        assert_eq!(failed.to_string(), "cannot fail: reason");
        let panicked = guarded::<()>("try", || panic!("at {}", 3)).expect_err("panicked");
        assert_eq!(panicked.to_string(), "cannot try: the tokenizers library panicked: at 3");
    }
}
