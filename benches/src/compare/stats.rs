//! Statistics.

/// Returns the median; for an even number of values, the mean of the middle two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(lower.midpoint(upper))
}

/// Returns the median of `theirs / ours` in each round, because temporary load affects both runs of
/// a round.
pub(crate) fn pairwise_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours))
}

/// Returns the minimum and the maximum.
pub(crate) fn bounds(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high), &v| (low.min(v), high.max(v)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_depend_on_the_order() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn ratios_are_computed_within_a_round() {
        // In the third round, both runs were slowed down.
        let (ours, theirs) = ([1.0, 1.0, 10.0], [2.0, 2.0, 20.0]);
        assert_eq!(pairwise_ratio(&ours, &theirs), Some(2.0));
    }
}
