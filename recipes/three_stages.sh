#!/bin/sh
# The three stages with the models and the speech that ship with Tiny Audio: minutes on two cores. docs/stages.md walks
# through it. What a stage is comes from its experiment; the settings here only make it small.
set -eu
OUT=${OUT:-outputs/stages}

stage() {
  experiment=$1
  shift
  ta train "experiment=$experiment" "paths.output_dir=$OUT" \
    model.encoder=pocket model.decoder=pocket data=pocket data.cache_features=true \
    model.projector_config.hidden_dim=512 model.projector_config.dropout=0 \
    training.eval_steps=100 training.save_steps=100 training.max_new_tokens=60 \
    logging.use_wandb=false logging.log_steps=50 "$@"
}

stage transcription training.max_steps=400 training.learning_rate=2e-3 training.warmup_steps=50
stage mlp_lora training.max_steps=300 training.learning_rate=1e-3 training.warmup_steps=20 training.eval_at_start=true
stage mlp_fine_tune training.max_steps=300 training.learning_rate=5e-4 training.warmup_steps=20
ta eval checkpoint="$OUT/transcription/checkpoints/final.pt" checkpoint="$OUT/mlp_lora/checkpoints/final.pt" \
  checkpoint="$OUT/mlp_fine_tune/checkpoints/final.pt"
