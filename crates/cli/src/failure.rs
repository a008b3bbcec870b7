//! How failures are told, and which exit code they give.

use std::fmt;

use crate::output::{style, visible};

/// Exit code of a command line that asks for something that does not exist.
pub(crate) const USAGE: u8 = 2;
/// Exit code of work that failed.
const FAILED: u8 = 1;

/// A fault of the command line that the parser cannot see.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The exit code for `error`.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let of_usage = error.chain().any(|cause| {
        cause.is::<UsageError>()
            || matches!(cause.downcast_ref::<easyedit::Error>(), Some(easyedit::Error::UnknownMethod { .. } | easyedit::Error::Device(_)))
    });
    if of_usage { USAGE } else { FAILED }
}

/// The error and its causes, each once: many messages hold their cause's already.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("{} {}\n", style("error:").for_stderr().red().bold(), visible(&error.to_string()));
    let mut told = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !told.contains(&cause) {
            text.push_str(&format!("  because {}\n", visible(&cause)));
            told.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let io = std::io::Error::other("disk full");
        let error = Err::<(), _>(easyedit::Error::io("write", "a.json", io)).context("the report is lost").unwrap_err();
        let text = describe(&error);
        assert!(text.contains("error: the report is lost\n  because cannot write a.json: disk full\n"), "{text}");
        assert_eq!(text.matches("disk full").count(), 1);
        assert_eq!(exit_code(&error), FAILED);
    }

    #[test]
    fn what_does_not_exist_is_a_fault_of_the_command_line() {
        let unknown = easyedit::registry().get("nothing").map(|_| ()).unwrap_err();
        assert_eq!(exit_code(&unknown.into()), USAGE);
        assert_eq!(exit_code(&UsageError("x".into()).into()), USAGE);
    }
}
