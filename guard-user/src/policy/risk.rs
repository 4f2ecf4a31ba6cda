//! The score of a call, by what the policy says of it.

use std::sync::Arc;

use super::condition::{Times, Verdict};
use super::decide::Conditions;
use super::fact::Judging;
use super::meaning::{Means, Meant};
use super::{Policy, Question};
use crate::risk::{Base, Class, Inputs, Known, Model, Score};
use crate::rpc::Target;

/// How the policy scores calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Scoring {
    pub model: Model,
    /// Outside of these a call is riskier; `None`: at no time.
    pub working_hours: Option<Arc<Times>>,
    /// Whether some of the files speak of risk. If none does, no call has a score.
    pub is_used: bool,
}

impl Policy {
    /// How risky a call is, of which this is `known` beforehand. `None`: the policy does not speak of risk, or no intent names
    /// what is asked. Of several intents the riskiest counts.
    pub fn risk(&self, question: &Question<'_>, known: Option<Known>) -> Option<Score> {
        if !self.scoring.is_used {
            return None;
        }
        let how = Conditions::Judged(question.arguments, question.around);
        let off_hours = self.off_hours(question);
        let meant = self.meant(question)?.iter().filter(|one| !matches!(one.by(how), Means::No(_)));
        let scores = meant.map(|one| {
            let base = match one.weights.base {
                Some(points) => Base::Points(points),
                None => Base::Class(one.weights.class.unwrap_or(Class::Unknown)),
            };
            let arguments = additions(one, question);
            self.scoring.model.score(&Inputs { base, arguments, off_hours: off_hours.clone(), known })
        });
        // Of equals the first one's, whatever their number.
        scores.reduce(|highest, next| if next.score > highest.score { next } else { highest })
    }

    /// Whether calls have scores.
    pub fn speaks_of_risk(&self) -> bool {
        self.scoring.is_used
    }

    /// What counts together when it is asked whether an agent has called this before: a tool, a prompt, or else an intent. `None`: no
    /// intent names it.
    pub fn counted_as(&self, question: &Question<'_>) -> Option<String> {
        let intent = &self.meant(question)?.first()?.intent;
        Some(match question.target {
            Target::Tool(tool) => format!("tool:{tool}"),
            Target::Prompt(prompt) => format!("prompt:{prompt}"),
            _ => format!("intent:{intent}"),
        })
    }

    fn meant(&self, question: &Question<'_>) -> Option<&[Meant]> {
        let meant = self.intents.get(question.server)?.find(question.target, question.method)?;
        Some(meant)
    }

    fn off_hours(&self, question: &Question<'_>) -> Option<String> {
        let hours = self.scoring.working_hours.as_ref()?;
        match hours.judge(question.around.moment) {
            Verdict::Met => None,
            Verdict::NotMet(_) => Some(format!("it is not {hours}")),
            Verdict::Unknown(why) => Some(why),
        }
    }
}

/// What the arguments add. What cannot be told adds, too.
fn additions(meant: &Meant, question: &Question<'_>) -> Vec<(u8, String)> {
    let of = |addition: &super::meaning::Addition| {
        let judged = addition.conditions.iter().map(|condition| {
            (condition, condition.judge(question.arguments, &question.around, Judging::Any))
        });
        let mut words = Vec::new();
        for (condition, verdict) in judged {
            match verdict {
                Verdict::Met => words.push(condition.to_string()),
                Verdict::NotMet(_) => return None,
                Verdict::Unknown(_) => words.push(format!("{condition}, as far as can be told")),
            }
        }
        Some((addition.points, words.join(", ")))
    };
    meant.weights.additions.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests;
