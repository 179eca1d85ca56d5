// Lists the links of the open workflow that cross each other or run behind a node that they do not belong to. An expression:
// comfy_page evaluates it. Links are the curves that LiteGraph draws: cubic, leaving
// slots by a quarter of the distance, straight at bends.
() => {
  const STEPS = 48;
  const graph = app.rootGraph;
  const nodeBoxes = graph.nodes.map((node) => ({ node, box: [...node.getBounding()] }));

  const curve = (start, end, fromSlot, toSlot) => {
    const bend = Math.hypot(end[0] - start[0], end[1] - start[1]) * 0.25;
    const control = [start, [start[0] + fromSlot * bend, start[1]], [end[0] - toSlot * bend, end[1]], end];
    return Array.from({ length: STEPS + 1 }, (_, step) => {
      const t = step / STEPS;
      const weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
      return [0, 1].map((axis) => weights.reduce((sum, weight, index) => sum + weight * control[index][axis], 0));
    });
  };

  const curves = [...graph.links.values()].map((link) => {
    const from = graph.getNodeById(link.origin_id);
    const to = graph.getNodeById(link.target_id);
    const stops = [
      from.getOutputPos(link.origin_slot),
      ...link.constructor.getReroutes(graph, link).map((reroute) => [...reroute.pos]),
      to.getInputPos(link.target_slot),
    ];
    const last = stops.length - 2;
    const points = stops.slice(1).flatMap((end, index) => curve(stops[index], end, index === 0, index === last));
    const slot = `${link.origin_id}:${link.origin_slot}`;
    return { from, to, slot, points, name: `${from.title} -> ${to.title}.${to.inputs[link.target_slot].name}` };
  });

  const problems = [];
  for (const { from, to, points, name } of curves)
    for (const { node, box: [x, y, width, height] } of nodeBoxes)
      if (node !== from && node !== to && points.some(([px, py]) => px > x && px < x + width && py > y && py < y + height))
        problems.push(`${name} runs behind ${node.title}`);

  const side = (a, b, c) => Math.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]));
  const cross = (a, b, c, d) => side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0;
  for (const [index, first] of curves.entries())
    for (const second of curves.slice(index + 1)) {
      if (first.slot === second.slot) continue; // a fan from one output
      const crossing = first.points.some(
        (point, i) => i > 0 && second.points.some((other, j) => j > 0 && cross(first.points[i - 1], point, second.points[j - 1], other)),
      );
      if (crossing) problems.push(`${first.name} crosses ${second.name}`);
    }
  return problems;
}
