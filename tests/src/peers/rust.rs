//! The steps with rmcp, in this process.

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use super::{Scenario, Step};
use crate::client::{Client, Endpoint, said};
use crate::process::START_LIMIT;

/// All steps up to the first that fails.
pub(super) async fn drive(endpoint: &Endpoint, scenario: &Scenario) -> anyhow::Result<Vec<Step>> {
    let tables: Value = serde_json::from_str(include_str!("../../peers/steps.json"))?;
    let mut table = tables[scenario.table.name()].as_object().context("no such table")?.clone();
    if let Some(denied) = &scenario.denied {
        table.insert("denied".into(), denied.clone());
    }
    let mut names = vec!["initialize", "list"];
    names.extend(table.keys().map(String::as_str));
    if !scenario.steps.is_empty() {
        names.clone_from(&scenario.steps);
    }

    let client = Client::connect(endpoint, scenario.era).await?;
    let mut steps = Vec::new();
    for name in names {
        let (ok, seen) = match step(&client, name, &table).await {
            Ok(seen) => (true, seen),
            Err(error) => (false, json!({"error": format!("{error:#}")})),
        };
        let Value::Object(seen) = seen else { unreachable!("steps answer objects") };
        steps.push(Step { step: name.to_owned(), ok, seen });
        if !ok {
            break;
        }
    }
    client.close().await;
    Ok(steps)
}

async fn step(client: &Client, name: &str, table: &Map<String, Value>) -> anyhow::Result<Value> {
    let wanted = || table.get(name).context("there is no such step");
    Ok(match name {
        "initialize" => json!({"server": client.server_name()}),
        "list" => json!({"tools": client.tools().await?}),
        "call" => call(client, wanted()?, false).await?,
        "progress" => {
            let wanted = wanted()?;
            let reports = wanted["reports"].as_u64().and_then(|count| usize::try_from(count).ok());
            let reports = client.progress() + reports.context("no number of reports")?;
            let seen = call(client, wanted, false).await?;
            let came = client.progress_reaches(reports, START_LIMIT).await;
            anyhow::ensure!(came == reports, "{came} progress reports came, not {reports}");
            seen
        }
        "sampling" | "elicitation" => {
            let before = client.asked();
            let seen = call(client, wanted()?, false).await?;
            let asked = client.asked() - before;
            anyhow::ensure!(asked == 1, "the server asked the client {asked} times");
            seen
        }
        "read" => {
            let text = client.read(wanted()?["uri"].as_str().context("no uri")?).await?;
            let says = wanted()?["says"].as_str().context("no text")?;
            anyhow::ensure!(text.contains(says), "the resource is {text:?}");
            json!({"text": text})
        }
        "denied" => {
            let seen = call(client, wanted()?, true).await?;
            call(client, table.get("call").context("no call")?, false).await?;
            seen
        }
        other => bail!("there is no step {other:?}"),
    })
}

async fn call(client: &Client, step: &Value, refused: bool) -> anyhow::Result<Value> {
    let tool = step["tool"].as_str().context("no tool")?;
    let result = client.call(tool, step["arguments"].clone()).await?;
    let text = said(&result);
    let is_error = result.is_error == Some(true);
    anyhow::ensure!(is_error == refused, "{tool} answered is_error={is_error}: {text}");
    if let Some(says) = step["says"].as_str().filter(|_| !refused) {
        anyhow::ensure!(text.contains(says), "{tool} answered {text:?}");
    }
    Ok(json!({"text": text, "is_error": is_error}))
}
