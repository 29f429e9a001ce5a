//! Ctrl-C: a flag that long work looks at, so that what was measured so far is printed.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::EXIT_INTERRUPTED;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler, once, and returns the flag that it sets. A second Ctrl-C ends the
/// process at once. Where no handler can be installed Ctrl-C ends the process as it always did.
pub fn flag() -> &'static AtomicBool {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let installed = ctrlc::set_handler(|| {
            // Relaxed: the flag stands for itself.
            if INTERRUPTED.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            }
        });
        // Somebody else has a handler, or the system allows none: Ctrl-C then ends us without a word.
        drop(installed);
    });
    &INTERRUPTED
}
