//! Holm's step-down correction: the level that each of many intervals gets.
//!
//! The chance that any of them is wrong about an equal pair stays at the level of one, whatever depends on what. The row that
//! is surest gets the level ÷ m, the next one ÷ (m − 1), and so on to the first that is not sure enough: its level is that
//! of all behind it.
//!
//! Source: S. Holm, *A simple sequentially rejective multiple test procedure*, Scand. J. Statist. 6 (1979), 65.

/// The level of each row's interval. `chances` are the rows' p-values, `level` that of all together.
#[must_use]
pub fn levels(chances: &[f64], level: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..chances.len()).collect();
    order.sort_by(|&a, &b| chances[a].total_cmp(&chances[b]));
    let mut levels = vec![level; chances.len()];
    let mut given = level;
    let mut sure = true;
    for (rank, &row) in order.iter().enumerate() {
        if sure {
            given = level / (chances.len() - rank) as f64;
            sure = chances[row] <= given;
        }
        levels[row] = given;
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_keeps_the_whole_level() {
        assert_eq!(levels(&[0.5], 0.05), [0.05]);
        assert!(levels(&[], 0.05).is_empty());
    }

    #[test]
    fn a_sure_row_leaves_more_to_the_next_and_an_unsure_one_nothing_to_those_behind() {
        // The example of a text-book: 0.01 < 0.05/4, 0.014 < 0.05/3, 0.03 > 0.05/2.
        let levels = levels(&[0.03, 0.01, 0.04, 0.014], 0.05);
        let expected = [0.05 / 2.0, 0.05 / 4.0, 0.05 / 2.0, 0.05 / 3.0];
        assert_eq!(levels, expected);
    }
}
