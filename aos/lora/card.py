"""The model card of a trained adapter."""

from __future__ import annotations

from datetime import UTC, datetime

from aos.lora.job import TrainingReport


def model_card(report: TrainingReport) -> str:
    """Markdown with the header that the Hugging Face hub and PEFT read."""
    config, params = report.config, report.params
    made = datetime.fromtimestamp(report.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = [
        ("Base model", f"`{report.model_name}`"),
        ("Made", made),
        ("Examples", f"{report.examples} trained on, {report.eval_examples} kept for evaluation"),
        ("Data (SHA-256)", f"`{report.data_hash}`"),
        ("Rank, alpha, dropout", f"{config.r}, {config.lora_alpha}, {config.lora_dropout}"),
        ("Target modules", ", ".join(f"`{name}`" for name in config.target_modules)),
        ("Trained parameters", f"{report.trained_parameters:,} of {report.all_parameters:,}"),
        ("Steps, epochs", f"{report.steps}, {report.epochs:.2f}"),
        ("Batch, accumulation", f"{params.batch_size}, {params.gradient_accumulation}"),
        ("Learning rate, seed", f"{params.learning_rate}, {params.seed}"),
        ("Loss at first", _number(report.first_loss)),
        ("Loss at last", _number(report.train_loss)),
        ("Evaluation loss", _number(report.eval_loss)),
        ("Evaluation loss without the adapter", _number(report.base_eval_loss)),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"---\nbase_model: {report.model_name}\nlibrary_name: peft\ntags: [lora]\n---\n\n"
        f"# Adapter {report.adapter}, version {report.version}\n\n| | |\n|---|---|\n{table}\n"
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
