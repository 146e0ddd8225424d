//! The grain tables read last, kept in memory.

use crate::host::lock;
use crate::vocabulary::error::Result;
use std::sync::{Arc, Mutex};

/// How many there are: with 512 grains of 64 KiB each they speak for 512 MiB.
const CACHED_TABLES: usize = 16;

/// Tables by their index in the grain directory, the last used one first.
#[derive(Debug)]
pub(super) struct TableCache<T>(Mutex<Vec<(u64, Arc<[T]>)>>);

impl<T> Default for TableCache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> TableCache<T> {
    /// The table `index`; what is not here is `read`.
    ///
    /// # Errors
    /// As `read`.
    pub(super) fn get(
        &self,
        index: u64,
        read: impl FnOnce() -> Result<Vec<T>>,
    ) -> Result<Arc<[T]>> {
        if let Some(table) = self.cached(index) {
            return Ok(table);
        }
        // Others may read meanwhile; the same table twice does no harm.
        let table: Arc<[T]> = read()?.into();
        let mut tables = lock(&self.0);
        tables.truncate(CACHED_TABLES - 1);
        tables.insert(0, (index, Arc::clone(&table)));
        Ok(table)
    }

    fn cached(&self, index: u64) -> Option<Arc<[T]>> {
        let mut tables = lock(&self.0);
        let found = tables.iter().position(|(i, _)| *i == index)?;
        tables[..=found].rotate_right(1);
        Some(Arc::clone(&tables[0].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::error::Error;

    #[test]
    fn a_table_is_read_once_until_sixteen_others_were() {
        let cache = TableCache::default();
        let mut reads = 0;
        let mut get = |index: u64| {
            let table = cache.get(index, || {
                reads += 1;
                Ok(vec![index; 3])
            });
            assert_eq!(*table.expect("reads"), [index; 3]);
            reads
        };
        for index in 0..16 {
            assert_eq!(get(index), index + 1);
        }
        assert_eq!(get(0), 16);
        assert_eq!(get(16), 17);
        assert_eq!(get(0), 17, "the last used one is kept");
        assert_eq!(get(1), 18, "the first used one is gone");
    }

    #[test]
    fn what_could_not_be_read_is_not_kept() {
        let cache = TableCache::<u8>::default();
        assert!(cache.get(0, || Err(Error::invalid("not now"))).is_err());
        assert_eq!(*cache.get(0, || Ok(vec![7])).expect("reads"), [7]);
    }
}
