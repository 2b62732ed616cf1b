//! Medians, percentiles and the rate of two things done one after the other.

/// The middle value, or the mean of the two in the middle. `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The smallest value that at least `permille` thousandths of all are not above (nearest rank). `None` of nothing.
pub(crate) fn percentile(sorted: &[u64], permille: u64) -> Option<u64> {
    debug_assert!(sorted.is_sorted(), "percentiles are read from sorted values");
    let rank = (sorted.len() as u64 * permille).div_ceil(1000).max(1);
    sorted.get(usize::try_from(rank - 1).ok()?).copied()
}

/// How often a second something is done that takes one of each, when each alone is done this often.
pub(crate) fn one_after_the_other(rates: &[f64]) -> f64 {
    1.0 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>()
}

/// Median and 99th percentile, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// One of the two.
pub(crate) type Which = fn(&Percentiles) -> f64;

impl Percentiles {
    /// Each with its name.
    pub(crate) const EACH: [(&'static str, Which); 2] = [("p50", |both| both.p50), ("p99", |both| both.p99)];

    pub(crate) fn of(nanoseconds: impl IntoIterator<Item = u64>) -> Percentiles {
        let mut sorted: Vec<u64> = nanoseconds.into_iter().collect();
        sorted.sort_unstable();
        let microseconds =
            |permille| percentile(&sorted, permille).map_or(f64::NAN, |nanoseconds| nanoseconds as f64 / 1e3);
        Percentiles { p50: microseconds(500), p99: microseconds(990) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        assert_eq!(median(&[10.0, 11.0, 12.0, 13.0, 9000.0]), Some(12.0));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let thousand: Vec<u64> = (1..=1000).collect();
        assert_eq!(percentile(&thousand, 500), Some(500));
        assert_eq!(percentile(&thousand, 990), Some(990));
        assert_eq!(percentile(&thousand, 1000), Some(1000));

        assert_eq!(percentile(&[5, 6, 7], 500), Some(6));
        assert_eq!(percentile(&[5, 6, 7], 990), Some(7));
        assert_eq!(percentile(&[5, 6, 7], 0), Some(5));
        assert_eq!(percentile(&[5], 990), Some(5));
        assert_eq!(percentile(&[], 500), None);
    }

    #[test]
    fn the_99th_percentile_sees_more_than_one_in_a_hundred_slow_ones() {
        let mut one_percent = vec![1; 990];
        one_percent.extend([100; 10]);
        let mut a_little_more = vec![1; 989];
        a_little_more.extend([100; 11]);

        assert_eq!(percentile(&one_percent, 990), Some(1));
        assert_eq!(percentile(&a_little_more, 990), Some(100));
    }

    #[test]
    fn two_equal_steps_halve_the_rate_and_a_fast_one_hardly_matters() {
        assert!((one_after_the_other(&[100.0, 100.0]) - 50.0).abs() < 1e-9);
        assert!((one_after_the_other(&[110_000.0, 256_000.0]) - 76_939.890_7).abs() < 1e-3);
        assert!((one_after_the_other(&[1000.0, 1e12]) - 1000.0).abs() < 1e-3);
        assert!((one_after_the_other(&[42.0]) - 42.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_told_in_microseconds_whatever_the_order() {
        let nanoseconds = (1..=1000).rev().map(|n| n * 1000);

        assert_eq!(Percentiles::of(nanoseconds), Percentiles { p50: 500.0, p99: 990.0 });
    }
}
