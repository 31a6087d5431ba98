//! Reading of user-written text files.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a UTF-8 text file as bytes, without a byte order mark.
///
/// # Errors
///
/// Returns an error if the file cannot be read or is UTF-16.
pub(crate) fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(std::fs::read(path).map_err(|error| error.to_string())?);
    if bytes.starts_with(UTF_8_MARK) {
        bytes.drain(..UTF_8_MARK.len());
    }
    // UTF-16 starts with a byte order mark, or with an ASCII character next to a zero byte.
    let is_utf_16 = bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || matches!(bytes.as_slice(), [0, 1..=127, ..] | [1..=127, 0, ..]);
    match is_utf_16 {
        true => Err("is UTF-16; save it as UTF-8".to_owned()),
        false => Ok(bytes),
    }
}

/// Converts the bytes of a file to text.
///
/// # Errors
///
/// Returns an error if they are not UTF-8.
pub(crate) fn to_text(bytes: &[u8]) -> Result<Zeroizing<String>, String> {
    let text = str::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8: invalid byte {}", error.valid_up_to() + 1))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A file and the content that was read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadFile {
    path: PathBuf,
    /// The SHA-256; `None` if the file was unreadable.
    hash: Option<[u8; 32]>,
}

impl ReadFile {
    /// Describes what [`read_bytes`] has returned.
    pub(crate) fn of(path: &Path, read: Result<&[u8], &String>) -> Self {
        Self { path: path.to_owned(), hash: read.ok().map(|bytes| Sha256::digest(bytes).into()) }
    }

    /// Reads the file again.
    pub(crate) fn again(&self) -> Self {
        let read = read_bytes(&self.path);
        Self::of(&self.path, read.as_ref().map(|bytes| bytes.as_slice()))
    }
}

/// Returns whether anyone but the owner can read the file.
#[cfg(unix)]
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Not determined on this platform.
#[cfg(not(unix))]
pub(crate) fn is_open_to_others(_path: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_utf8_with_bom_and_rejects_utf16() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("file");
        let utf_16 = |text: &str, order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(order).collect()
        };
        for (bytes, expected) in [
            (b"\xef\xbb\xbfa = 1\r\n".to_vec(), Ok("a = 1\r\n")),
            (b"".to_vec(), Ok("")),
            (utf_16("\u{feff}a = 1", u16::to_le_bytes), Err("is UTF-16")),
            (utf_16("\u{feff}a = 1", u16::to_be_bytes), Err("is UTF-16")),
            (utf_16("a = 1", u16::to_le_bytes), Err("is UTF-16")),
            (utf_16("a = 1", u16::to_be_bytes), Err("is UTF-16")),
            (b"a\xff".to_vec(), Err("is not UTF-8: invalid byte 2")),
        ] {
            std::fs::write(&file, &bytes).unwrap();
            match (read_bytes(&file).and_then(|bytes| to_text(&bytes)), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text.as_str(), expected),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
                (found, _) => panic!("{bytes:?}: {found:?}"),
            }
        }
    }
}
