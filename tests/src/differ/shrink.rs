//! Makes a case that two read in two ways as small as it can be.

use super::{Case, Decision, Difference, Jury};

/// Takes out halves, quarters and so on, down to single bytes, as long as the readings still differ.
pub(super) fn shrink(
    jury: &mut Jury,
    difference: &mut Difference,
    decide: &Decision<'_>,
) -> anyhow::Result<()> {
    // The chunks of a stream stay what they are: where they end may be the point.
    let kind = match &difference.case {
        Case::Json(_) => Case::Json,
        Case::Reply(_) => Case::Reply,
        Case::Stream(_) => return Ok(()),
    };
    let mut step = usize::MAX;
    loop {
        let (Case::Json(bytes) | Case::Reply(bytes)) = &difference.case else { return Ok(()) };
        step = step.min(bytes.len() / 2);
        if step == 0 {
            return Ok(());
        }
        let without = |start: usize| {
            let end = (start + step).min(bytes.len());
            kind([&bytes[..start], &bytes[end..]].concat())
        };
        let smaller: Vec<_> = (0..bytes.len())
            .step_by(step)
            .map(without)
            .filter_map(|case| decide(&case).map(|(case, known)| (difference.name.clone(), case, known)))
            .collect();
        match jury.compare(&smaller)?.into_iter().next() {
            Some(found) => *difference = found,
            None => step /= 2,
        }
    }
}
