//! Panics of dependencies, turned into errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// How many calls of [`catch_panic`] this thread is inside of.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Runs `action`, which hands outside input to a dependency that may panic on it. A panic becomes an error with its message, and
/// nothing of it is printed.
///
/// # Errors
///
/// The message of the panic.
pub fn catch_panic<T>(action: impl FnOnce() -> T) -> Result<T, String> {
    quiet_inside();
    let _inside = Inside::enter();
    // What the action has changed when it panics is seen by nobody: callers drop it, or only lent it out.
    catch_unwind(AssertUnwindSafe(action)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        text.unwrap_or("it panicked without a message").to_owned()
    })
}

/// Counts the thread in until it is dropped.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(INSIDE.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}

/// Puts a filter before the process's panic hook, once: it is not called for panics that are caught here.
fn quiet_inside() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if INSIDE.get() == 0 {
                hook(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(catch_panic(|| 7), Ok(7));
        assert_eq!(catch_panic(|| -> u8 { panic!("index {} of 3", 9) }), Err("index 9 of 3".to_owned()));
        let nested = catch_panic(|| catch_panic(|| -> u8 { panic!("deep") }));
        assert_eq!(nested, Ok(Err("deep".to_owned())));
        assert_eq!(INSIDE.get(), 0);
    }
}
