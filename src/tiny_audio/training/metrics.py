"""Names of the logged figures, in one place."""

TRAIN_LOSS = "train/loss"
TRAIN_PERPLEXITY = "train/perplexity"
LEARNING_RATE = "train/learning_rate"
GRAD_NORM = "train/grad_norm"
EPOCH = "train/epoch"
SAMPLES_PER_SECOND = "train/samples_per_second"
AUDIO_HOURS_PER_HOUR = "train/audio_hours_per_hour"
TOKENS_PER_SECOND = "train/tokens_per_second"  # positions of the decoder: prompt, audio tokens, transcript
TFLOPS = "train/tflops"  # per second and device, of matrix products, computed by formula: see model/flops.py
MFU = "train/mfu"  # the same as a share of the device's peak
DATA_WAIT_SHARE = "train/data_wait_share"  # share of the time that the main process waited for a batch
SKIPPED_CLIPS = "train/skipped_clips"
HOURS = "data/hours"  # of speech trained on so far
CORPUS_SHARE = "data/share_"  # data/share_librispeech, ...: of the clips trained on so far
NONFINITE_STEPS = "train/nonfinite_steps"
AUXILIARY_LOSS = "train/auxiliary_loss"  # of projectors with experts, as added to the loss
EXPERT_SHARE = "train/expert_share_"  # train/expert_share_0, ...: of the tokens read
CTC_LOSS = "train/ctc_loss"  # per word piece, if training.ctc_loss_weight is above 0
CTC_WARMUP = "ctc_warmup/"  # ctc_warmup/loss, .../learning_rate, .../grad_norm, .../wer, .../cer; steps below 0
EVAL = "eval/"  # eval/loss, eval/wer, eval/cer
TRANSCRIPTS = "eval/transcripts"  # a table
GPU_MEMORY_ALLOCATED = "system/gpu_memory_allocated"  # bytes
GPU_MEMORY_RESERVED = "system/gpu_memory_reserved"  # bytes
PEAK_MEMORY = "system/peak_memory"  # bytes: of the GPU since the line before; on a CPU of the process since its start
CPU_PERCENT = "system/cpu_percent"
GLOBAL_STEP = "train/global_step"
