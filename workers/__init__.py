"""The processes of a run: coordinator, audio workers, learner, evaluator, tracker, and the supervisor that starts them."""
