"""A network for scikit-learn's handwritten digits, which goes on from its checkpoint when its node was lost."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def train(params, trial):
    torch.manual_seed(trial.seed)
    digits = load_digits()
    parts = train_test_split(digits.data / 16, digits.target, random_state=trial.seed)
    x, x_valid = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    y, y_valid = (torch.tensor(part) for part in parts[2:])
    layers = [torch.nn.Linear(64, params["hidden"]), torch.nn.ReLU(), torch.nn.Dropout(params["dropout"])]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(params["hidden"], 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=params["learning_rate"])
    kept = trial.checkpoint_dir / "state.pt"
    begin, accuracy = 0, 0.0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        begin, accuracy = state["epoch"], state["accuracy"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(begin, 20):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(x_valid).argmax(1) == y_valid).float().mean().item()
        state = {"epoch": epoch + 1, "accuracy": accuracy}
        part = kept.with_suffix(".part")
        torch.save({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, part)
        part.replace(kept)  # at once or not at all: the node may go in the middle of it
        trial.report({"accuracy": accuracy}, step=epoch)
    return {"accuracy": accuracy}
