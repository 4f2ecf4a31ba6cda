//! Makes a case that two read in two ways as small as it can be.

use super::{Case, Decision, Difference, Jury};

/// Takes out halves, quarters and so on, down to single bytes, as long as the readings still differ.
pub(super) fn shrink(
    jury: &mut Jury,
    difference: &mut Difference,
    decide: &Decision<'_>,
) -> anyhow::Result<()> {
    // The chunks of a stream stay what they are: where they end may be the point.
    let Case::Json(bytes) = &difference.case else { return Ok(()) };
    let mut step = bytes.len() / 2;
    while step > 0 {
        let Case::Json(bytes) = &difference.case else { return Ok(()) };
        let without = |start: usize| {
            let end = (start + step).min(bytes.len());
            Case::Json([&bytes[..start], &bytes[end..]].concat())
        };
        let smaller: Vec<_> = (0..bytes.len())
            .step_by(step)
            .map(without)
            .filter_map(|case| decide(&case).map(|known| (difference.name.clone(), case, known)))
            .collect();
        match jury.compare(&smaller)?.into_iter().next() {
            Some(found) => *difference = found,
            None => step /= 2,
        }
    }
    Ok(())
}
