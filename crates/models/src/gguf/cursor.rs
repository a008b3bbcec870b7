/// Reads little-endian numbers and lengths from bytes that a stranger wrote; nothing is ever read past the end.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Why a read failed; the reader adds where.
pub(super) type Failure = String;

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    /// Where the next read starts.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Failure> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("the file ends {} bytes too early", length.saturating_sub(self.remaining())))?;
        self.at += length;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| "the file ends too early".to_owned())
    }

    pub(super) fn u32(&mut self) -> Result<u32, Failure> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Failure> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each, checked against what is left of the file.
    pub(super) fn count(&mut self, what: &str, least: usize) -> Result<usize, Failure> {
        let claimed = self.u64()?;
        let left = self.remaining();
        usize::try_from(claimed)
            .ok()
            .filter(|count| count.checked_mul(least).is_some_and(|bytes| bytes <= left))
            .ok_or_else(|| format!("claims {claimed} {what}, but only {left} bytes follow; the file is damaged or cut short"))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Failure> {
        let length = self.count("bytes of text", 1)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8".to_owned())
    }
}
