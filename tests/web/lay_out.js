// Builds the workflow that a specification from workflow_layouts.py describes, in ComfyUI's own page, with the sizes that
// its nodes have there; returns the workflow in UI format as text. An expression: comfy_page evaluates it.
async (specification) => {
  const GROUP_GAP = 84;
  const COLUMN_GAP = 56;
  const NODE_GAP = 24;
  const TITLE = LiteGraph.NODE_TITLE_HEIGHT;
  const GROUP_PADDING = 16;
  const GROUP_HEADER = 40;

  app.rootGraph.clear();
  const nodes = new Map();
  for (const group of specification.groups) {
    for (const [key, described] of group.columns.flatMap((column) => Object.entries(column.nodes))) {
      const node = LiteGraph.createNode(described.type);
      if (!node) throw new Error(`ComfyUI knows no node ${described.type}`);
      if (described.title) node.title = described.title;
      if (described.models.length > 0) node.properties.models = described.models;
      app.rootGraph.add(node);
      nodes.set(key, node);
      for (const [name, value] of Object.entries(described.widgets)) {
        const widget = node.widgets.find((candidate) => candidate.name === name);
        if (!widget) throw new Error(`${described.type} has no widget ${name}`);
        widget.value = value;
      }
      const smallest = node.computeSize();
      node.setSize([Math.max(described.width, smallest[0]), Math.max(described.height, smallest[1])]);
    }
  }

  let left = 0;
  for (const group of specification.groups) {
    let x = group.below === null ? left : nodes.get(group.below).pos[0];
    for (const column of group.columns) {
      let y = column.top;
      let width = 0;
      for (const key of Object.keys(column.nodes)) {
        const node = nodes.get(key);
        node.pos = [x, y];
        y += node.size[1] + TITLE + NODE_GAP;
        width = Math.max(width, node.size[0]);
      }
      x += width + COLUMN_GAP;
    }
    left = Math.max(left, x - COLUMN_GAP + GROUP_GAP + 2 * GROUP_PADDING);

    const members = group.columns.flatMap((column) => Object.keys(column.nodes)).map((key) => nodes.get(key));
    const edges = {
      left: Math.min(...members.map((node) => node.pos[0])) - GROUP_PADDING,
      top: Math.min(...members.map((node) => node.pos[1])) - TITLE - GROUP_HEADER,
      right: Math.max(...members.map((node) => node.pos[0] + node.size[0])) + GROUP_PADDING,
      bottom: Math.max(...members.map((node) => node.pos[1] + node.size[1])) + GROUP_PADDING,
    };
    const frame = new LiteGraph.LGraphGroup(group.title);
    frame.color = group.color;
    frame.pos = [edges.left, edges.top];
    frame.size = [edges.right - edges.left, edges.bottom - edges.top];
    app.rootGraph.add(frame);
  }

  for (const { target, input, source, output, bends } of specification.links) {
    const from = nodes.get(source);
    const slot = from.findOutputSlot(output);
    if (slot < 0) throw new Error(`${from.type} has no output ${output}`);
    const link = from.connect(slot, nodes.get(target), input);
    if (!link) throw new Error(`${source}.${output} does not fit ${target}.${input}`);
    for (const { node, right, below } of bends) {
      const [x, y] = nodes.get(node).pos;
      app.rootGraph.createReroute([x + right, y + below], link);
    }
  }
  await new Promise((done) => setTimeout(done, 100));
  return JSON.stringify(app.rootGraph.serialize());
}
