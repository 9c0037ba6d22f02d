//! Bytes as hexadecimal digits, in lower case.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A look at a table for each byte: a formatter costs many times as much.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(digits.map(char::from));
    text
}

/// The value of a hexadecimal digit, of either case.
pub(crate) fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encoded(&all);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"));
        let pairs = text.as_bytes().as_chunks::<2>().0;
        let read = pairs
            .iter()
            .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
        assert_eq!(read.collect::<Option<Vec<u8>>>(), Some(all));
        assert_eq!((digit(b'F'), digit(b'g')), (Some(15), None));
    }
}
