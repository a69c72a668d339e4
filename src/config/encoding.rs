//! The text of a configuration file: UTF-8, or a sentence with the place at which it is not.

use std::path::Path;

use super::ConfigError;

/// A text that is not UTF-8. The text itself is not shown: it may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUtf8 {
    /// Two bytes for each character.
    #[error("{place}: this is UTF-16: save it as UTF-8")]
    Utf16 {
        /// The file's path with line and column.
        place: String,
    },
    /// Bytes that UTF-8 does not have: GBK, Latin-1 and others cannot be told apart.
    #[error("{place}: this is not UTF-8 (perhaps GBK or Latin-1): save it as UTF-8")]
    Unknown {
        /// The file's path with line and column, or a variable's name.
        place: String,
    },
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    Ok(text_of(&path.display().to_string(), bytes)?)
}

fn text_of(name: &str, bytes: Vec<u8>) -> Result<String, NotUtf8> {
    let is_utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    // Without a byte order mark, half of the first character is zero.
    if is_utf16 || bytes.iter().take(2).any(|byte| *byte == 0) {
        return Err(NotUtf8::Utf16 { place: format!("{name}:1:1") });
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        NotUtf8::Unknown { place: format!("{name}:{line}:{column}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: it said "stream did not contain valid UTF-8", without a place.
    #[test]
    fn a_text_in_another_encoding_is_named_with_its_place() {
        let utf16 = |order: fn(u16) -> [u8; 2]| "[wall]\n".encode_utf16().flat_map(order).collect::<Vec<u8>>();
        let unknown = |place: &str| NotUtf8::Unknown { place: place.into() };
        for (bytes, wanted) in [
            (b"[wall]\nname = \"\xc4\xcf\xbe\xa9\"\n".to_vec(), unknown("a:2:9")),
            ("# 南京\nname = \"".bytes().chain(*b"caf\xe9\"\n").collect(), unknown("a:2:12")),
            ("# 南京 ".bytes().chain(*b"\xff\n").collect(), unknown("a:1:6")),
        ] {
            assert_eq!(text_of("a", bytes), Err(wanted));
        }
        for (mark, order) in [
            (&b"\xff\xfe"[..], u16::to_le_bytes as fn(u16) -> [u8; 2]),
            (b"\xfe\xff", u16::to_be_bytes),
            (b"", u16::to_le_bytes),
        ] {
            let text = text_of("a", [mark, &utf16(order)].concat());
            assert_eq!(text, Err(NotUtf8::Utf16 { place: "a:1:1".into() }));
        }
        assert_eq!(text_of("a", "# 南京\n".into()), Ok("# 南京\n".into()));
        assert_eq!(text_of("a", Vec::new()), Ok(String::new()));
    }
}
