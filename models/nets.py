"""The sample models that torchvision does not have: LeNet, trained on real digits, and BERT of any size."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """Ten digits from 1x28x28."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def digits():
    """scikit-learn's handwritten digits as 28x28 in [0, 1]: (train images, labels, test images, labels)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    test, train = order[:360], order[360:]
    return images[train], labels[train], images[test], labels[test]


def jitter(images):
    """Slightly turned, scaled and shifted: 1,437 digits are few."""
    n = len(images)
    angle, size = 0.3 * (torch.rand(n) - 0.5), 1 + 0.2 * (torch.rand(n) - 0.5)
    shift = 0.16 * (torch.rand(n, 2) - 0.5)
    cos, sin = size * torch.cos(angle), size * torch.sin(angle)
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)


def train_lenet():
    """Returns (model, accuracy on the test images, test images, labels). The same every time on one machine."""
    torch.manual_seed(0)
    images, labels, test_images, test_labels = digits()
    net = LeNet()
    epochs, batch = 30, 64
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 4e-3, total_steps=epochs * ((len(labels) + batch - 1) // batch)
    )
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for i in range(0, len(order), batch):
            chosen = order[i : i + batch]
            optimiser.zero_grad()
            F.cross_entropy(net(jitter(images[chosen])), labels[chosen]).backward()
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        accuracy = (net(test_images).argmax(1) == test_labels).float().mean().item()
    return net, accuracy, test_images, test_labels


class Attention(nn.Module):
    fused: torch.jit.Final[bool]

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.fused = hasattr(F, "scaled_dot_product_attention")
        self.scale = (hidden // heads) ** -0.5
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, hidden)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            y = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(2, 3)) * self.scale + bias, -1), v)
        return self.output(y.transpose(1, 2).reshape(x.shape))


class Layer(nn.Module):
    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.attention = Attention(hidden, heads)
        self.norm1 = nn.LayerNorm(hidden, eps=1e-12)
        self.wide = nn.Linear(hidden, 4 * hidden)
        self.narrow = nn.Linear(4 * hidden, hidden)
        self.norm2 = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, bias))
        return self.norm2(x + self.narrow(F.gelu(self.wide(x))))


class Bert(nn.Module):
    """BERT's encoder and pooler (bert-base: 12 layers of 768, 12 heads). The type of the arithmetic is that of
    the weights, so the model can be converted to half precision after it was scripted."""

    def __init__(self, layers=12, hidden=768, heads=12, vocabulary=30522, positions=512):
        super().__init__()
        self.words = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Embedding(positions, hidden)
        self.types = nn.Embedding(2, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.layers = nn.ModuleList([Layer(hidden, heads) for _ in range(layers)])
        self.pooler = nn.Linear(hidden, hidden)
        for p in self.parameters():  # as BERT initialises itself
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        place = torch.arange(input_ids.size(1), device=input_ids.device)
        x = self.words(input_ids) + self.positions(place) + self.types.weight[0]
        x = self.norm(x)
        bias = (1 - attention_mask.to(x.dtype)).view(x.size(0), 1, 1, -1) * -10000.0
        for layer in self.layers:
            x = layer(x, bias)
        return torch.tanh(self.pooler(x[:, 0]))


class FromBytes(nn.Module):
    """Takes images as bytes, a quarter of what floats cost on the wire, and normalises them on the device. The
    buffer's type, not a constant in the graph, decides the arithmetic: it follows the weights to half precision."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("scale", torch.tensor(1 / 73.9))  # bytes that are all equally likely: unit variance

    def forward(self, x):
        return self.inner((x.type_as(self.scale) - 127.5) * self.scale)
