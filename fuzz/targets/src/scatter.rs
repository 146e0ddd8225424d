//! Inputs that are parts of an image: where its tables are, and not the emptiness between.

/// Sectors of an image, in the order in which an input has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scatter<'a> {
    pub(crate) sector_bytes: usize,
    pub(crate) sectors: &'a [usize],
}

impl Scatter<'_> {
    /// The image with the input's bytes in place of these sectors; those that the input does not
    /// reach stay as they are.
    pub(crate) fn put(&self, image: &[u8], input: &[u8]) -> Vec<u8> {
        let mut image = image.to_vec();
        for (sector, bytes) in self.sectors.iter().zip(input.chunks(self.sector_bytes)) {
            let at = sector * self.sector_bytes;
            let end = at + bytes.len();
            if image.len() < end {
                image.resize(end, 0);
            }
            image[at..end].copy_from_slice(bytes);
        }
        image
    }

    /// The sectors' bytes: an input that changes nothing.
    pub(crate) fn take(&self, image: &[u8]) -> Vec<u8> {
        let mut input = Vec::with_capacity(self.sectors.len() * self.sector_bytes);
        for sector in self.sectors {
            let at = (sector * self.sector_bytes).min(image.len());
            let end = (at + self.sector_bytes).min(image.len());
            input.extend_from_slice(&image[at..end]);
            input.resize(input.len() + self.sector_bytes - (end - at), 0);
        }
        input
    }
}
