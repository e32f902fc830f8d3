"""LoRA adapters: training data, training, versions, evaluation and serving.

Nothing here imports torch before work begins that needs it; the extra `ml` brings it.
"""
