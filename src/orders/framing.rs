//! The bytes that the serializers of schema registries write before a value.
//!
//! | registry | framing |
//! |---|---|
//! | Confluent, and those that speak its protocol | 0, the schema's number in four bytes |
//! | Apicurio, by default | 0, the schema's number in eight bytes |
//! | AWS Glue | 3, 0 or with 5 compressed by zlib, the schema version's UUID |
//!
//! A number of four bytes is never 0, and one of eight is never so large that its upper half is not 0: so the two are told apart.

/// The value behind its framing, if it has one.
///
/// # Errors
/// What stands behind the framing is no JSON, in a sentence that names the schema.
pub(super) fn unframed(value: &[u8]) -> Result<&[u8], String> {
    let (schema, rest) = match value {
        [0, 0, 0, 0, 0, a, b, c, d, rest @ ..] => (number([*a, *b, *c, *d]), rest),
        [0, a, b, c, d, rest @ ..] => (number([*a, *b, *c, *d]), rest),
        [3, compression @ (0 | 5), rest @ ..] if rest.len() > 16 => {
            let (version, rest) = rest.split_at(16);
            let digits: String = version.iter().map(|byte| format!("{byte:02x}")).collect();
            if *compression == 5 {
                return Err(format!("the value is compressed by the serializer of AWS Glue: schema version {digits}"));
            }
            (digits, rest)
        }
        _ => return Ok(value),
    };
    // What Avro writes may begin as JSON does: the length of a text of 17 characters is a quote.
    let is_json = |rest: &[u8]| {
        let text = rest.trim_ascii_start();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
        let end = text.iter().rposition(|byte| *byte != 0 && !byte.is_ascii_whitespace()).map(|at| text[at]);
        matches!((text.first(), end), (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')) | (Some(b'"'), Some(b'"')))
    };
    match rest {
        rest if is_json(rest) => Ok(rest),
        _ => Err(format!("the value has the framing of a schema registry: schema {schema}, not JSON")),
    }
}

fn number(bytes: [u8; 4]) -> String {
    u32::from_be_bytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_behind_a_framing_is_found_and_anything_else_is_named() {
        let uuid: Vec<u8> = (0..16).collect();
        let glue = |compression: u8, payload: &[u8]| [&[3, compression][..], &uuid, payload].concat();
        for framed in [b"\0\0\0\0\x0c{}".to_vec(), b"\0\0\0\0\0\0\0\0\x0c {}".to_vec(), glue(0, b"{}"), b"{}".to_vec()]
        {
            assert_eq!(unframed(&framed).map(<[u8]>::trim_ascii), Ok(&b"{}"[..]), "{framed:?}");
        }
        let marked = b"\0\0\0\0\x0c\xef\xbb\xbf{}";
        assert_eq!(unframed(marked), Ok(&marked[5..]), "its reader flags the byte order mark");
        let avro = |value: &[u8]| unframed(value).unwrap_err();
        let named = |schema: &str| format!("the value has the framing of a schema registry: schema {schema}, not JSON");
        assert_eq!(avro(b"\0\0\0\x01\x0c\x02\x06o1"), named("268"));
        assert_eq!(avro(b"\0\0\0\x01\x0c\x22order-1234567890ab\x02\x06"), named("268"), "it begins with a quote");
        assert_eq!(avro(b"\0\0\0\0\0\0\0\x01\x0c\x02\x06o1"), named("268"));
        assert_eq!(avro(&glue(0, b"\x02\x06")), named("000102030405060708090a0b0c0d0e0f"));
        assert!(avro(&glue(5, b"x")).ends_with("AWS Glue: schema version 000102030405060708090a0b0c0d0e0f"));
        for short in [&b"\0"[..], b"\0\0\0\0", b"\x03\0abc", b"\x03", b""] {
            assert_eq!(unframed(short), Ok(short), "no framing");
        }
    }
}
