//! Cuts file content into chunks: small files whole, larger ones by content (FastCDC).
//!
//! The cut points are not part of the format: a reader never needs to know them.

use std::io::{self, Read};

use fastcdc::v2020::FastCDC;

/// Files up to this size are one chunk.
pub const WHOLE: usize = 512 << 10;
const MIN: usize = 256 << 10;
const AVG: usize = 1 << 20;
/// The largest chunk: with its tar header it stays below the limit of a frame.
pub const MAX: usize = 4 << 20;

/// Splits a stream into content-defined chunks with one reused buffer of twice [`MAX`].
pub struct Chunker {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Chunker {
    fn default() -> Self {
        Self { buffer: vec![0; 2 * MAX], start: 0, end: 0 }
    }
}

impl Chunker {
    /// Calls `each` with every chunk of `reader` in order. The chunks put together are the stream.
    ///
    /// # Errors
    /// Those of `reader` and of `each`; the chunker can be used again afterwards.
    pub fn split<E: From<io::Error>>(
        &mut self,
        mut reader: impl Read,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        (self.start, self.end) = (0, 0);
        let mut at_end = false;
        loop {
            while !at_end && self.end - self.start < MAX {
                at_end = self.fill(&mut reader)? == 0;
            }
            let window = &self.buffer[self.start..self.end];
            if window.is_empty() {
                return Ok(());
            }
            let (_, cut) = FastCDC::new(window, MIN, AVG, MAX).cut(0, window.len());
            // `cut` is relative to the window and never 0 for a window that is not empty.
            let cut = cut.clamp(1, window.len());
            each(&window[..cut])?;
            self.start += cut;
        }
    }

    fn fill(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        if self.buffer.len() - self.end < MAX / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match reader.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) => {
                    self.end += n;
                    return Ok(n);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            out.extend_from_slice(&seed.to_le_bytes());
        }
        out.truncate(len);
        out
    }

    fn chunks(data: &[u8], piece: usize) -> Vec<Vec<u8>> {
        /// A reader that returns short reads.
        struct Trickle<'a>(&'a [u8], usize);
        impl Read for Trickle<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let n = self.1.min(out.len()).min(self.0.len());
                out[..n].copy_from_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                Ok(n)
            }
        }
        let mut out = Vec::new();
        Chunker::default()
            .split(Trickle(data, piece), |c| {
                out.push(c.to_vec());
                Ok::<_, io::Error>(())
            })
            .unwrap();
        out
    }

    #[test]
    fn chunks_have_no_gaps_and_do_not_depend_on_read_sizes() {
        let data = noise(11_000_000, 7);
        let whole = chunks(&data, usize::MAX);
        assert_eq!(whole.concat(), data);
        assert!(whole.len() > 3 && whole.iter().all(|c| c.len() <= MAX));
        assert_eq!(chunks(&data, 70_001), whole);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let data = noise(12_000_000, 9);
        let mut edited = data.clone();
        edited.splice(3_000_000..3_000_000, *b"inserted");
        let before: std::collections::HashSet<_> = chunks(&data, usize::MAX).into_iter().collect();
        let new = chunks(&edited, usize::MAX).into_iter().filter(|c| !before.contains(c)).count();
        assert!(new <= 3, "{new} chunks changed");
    }

    #[test]
    fn empty_input_has_no_chunk() {
        assert!(chunks(b"", 1).is_empty());
    }
}
