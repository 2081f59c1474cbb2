//! A SHA-256 as text: 64 hexadecimal digits.

/// Reads one; nothing where the text is anything else.
pub fn read(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|d| char::from(d).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

/// Writes one.
pub fn write(sha256: &[u8; 32]) -> String {
    sha256.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let mut sha256 = [0; 32];
        sha256.iter_mut().zip(0_u8..).for_each(|(byte, at)| *byte = at * 8);
        let text = write(&sha256);
        assert_eq!((text.len(), read(&text)), (64, Some(sha256)));
        assert_eq!(read(&text.to_uppercase()), Some(sha256));
        let others = [text[1..].to_owned(), format!("{text}0"), text.replace('8', "g"), "é".repeat(32), String::new()];
        for other in others {
            assert_eq!(read(&other), None, "{other:?}");
        }
    }
}
