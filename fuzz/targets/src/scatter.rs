//! Inputs that consist of selected sectors of an image: those with tables.

/// The sectors of an image that make up an input, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scatter<'a> {
    pub(crate) sector_bytes: usize,
    pub(crate) sectors: &'a [usize],
}

impl Scatter<'_> {
    /// Returns the image with these sectors replaced by the input. If the input is too short, the
    /// remaining sectors are unchanged.
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

    /// Returns the contents of the sectors: the input that leaves the image unchanged.
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
