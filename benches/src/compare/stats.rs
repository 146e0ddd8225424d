//! Numbers out of runs.

/// The middle value; of an even number of values, the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(lower.midpoint(upper))
}

/// The median of `theirs / ours`, round by round: what disturbs the machine
/// for a while disturbs both runs of a round.
pub(crate) fn pairwise_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours))
}

/// The smallest and the largest.
pub(crate) fn bounds(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high), &v| (low.min(v), high.max(v)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_whatever_the_order() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn a_ratio_is_taken_of_runs_of_the_same_round() {
        // The third round was disturbed for both.
        let (ours, theirs) = ([1.0, 1.0, 10.0], [2.0, 2.0, 20.0]);
        assert_eq!(pairwise_ratio(&ours, &theirs), Some(2.0));
    }
}
