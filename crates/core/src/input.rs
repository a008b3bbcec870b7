//! Files that come from outside, opened with a limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Opens a regular file of at most `max_bytes` and returns it with its length in bytes.
///
/// A pipe or a device is refused before it is opened: opening it could wait for ever.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be opened; [`Error::Format`] if it is not a regular file or is larger than `max_bytes`.
pub fn open_input(path: &Path, max_bytes: u64) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
        return Err(Error::format(path, format!("is {kind}, not a file; give a regular file")));
    }
    if metadata.len() > max_bytes {
        return Err(Error::format(path, format!("has {} bytes; at most {max_bytes} are read from such a file", metadata.len())));
    }
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    Ok((file, metadata.len()))
}

/// Reads a regular file of at most `max_bytes` into memory.
///
/// # Errors
///
/// As [`open_input`]; also if the file grows beyond `max_bytes` while it is read.
pub fn read_input(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let (file, length) = open_input(path, max_bytes)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::format(path, format!("has more than {max_bytes} bytes; no more are read from such a file")));
    }
    Ok(bytes)
}

/// Reads a regular UTF-8 file of at most `max_bytes`; a byte order mark at its start is removed.
///
/// # Errors
///
/// As [`read_input`]; [`Error::Format`] naming the first byte that is not UTF-8.
pub fn read_input_text(path: &Path, max_bytes: u64) -> Result<String> {
    let text = String::from_utf8(read_input(path, max_bytes)?)
        .map_err(|e| Error::format(path, format!("is not UTF-8 text: byte {} is invalid", e.utf8_error().valid_up_to())))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_up_to_the_limit_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, "\u{feff}four").unwrap();
        assert_eq!(read_input_text(&path, 7).unwrap(), "four");
        assert!(read_input(&path, 6).unwrap_err().to_string().contains("has 7 bytes; at most 6"));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(read_input_text(&path, 7).unwrap_err().to_string().contains("byte 2 is invalid"));
    }

    #[cfg(unix)]
    #[test]
    fn folders_devices_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_input(dir.path(), 10).unwrap_err().to_string().contains("is a folder"));
        assert!(read_input(Path::new("/dev/zero"), 10).unwrap_err().to_string().contains("a pipe or a device"));
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(read_input(&pipe, 10).unwrap_err().to_string().contains("a pipe or a device"));
    }
}
