"""Pages and a JSON interface over a feedback store: label, explore, arena, chat, quality, people. Trains nothing."""
